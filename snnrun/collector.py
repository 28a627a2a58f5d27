"""Python's garbage collector, which waits while a run starts.

Imports make much and drop little. Going through it again and again is a fifth of the time to the
first training step.
"""

import gc


def wait() -> None:
    """Collect nothing until `go_on`."""
    gc.disable()


def go_on() -> None:
    """Collect again, if it had to wait; what is there by now stays, and is not gone through."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
