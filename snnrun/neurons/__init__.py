"""Spiking neurons: what one unit computes, independent of how it is trained."""
