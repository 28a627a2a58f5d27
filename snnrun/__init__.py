"""Train spiking neural networks with any method, measured on one footing."""

__version__ = "0.1.0"
