"""Units that the tests of this folder start from."""

from snnrun.kernels.lif.parameters import LIFParameters
from snnrun.neurons.surrogate import Surrogate

UNITS = LIFParameters(
    leak=0.5,
    threshold=1.0,
    hard=False,
    rest=0.0,
    surrogate=Surrogate(name="sigmoid", width=4.0),
    detach_reset=True,
    fires_at_threshold=True,
    decay_input=False,
    leak_reset=True,
    delay=0,
)
