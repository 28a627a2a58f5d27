"""What torchrun tells the processes it starts; known without torch."""

import os
import sys
import time
from typing import NoReturn

GRACE_S = 10


def processes() -> int:
    """How many processes torchrun has started; 0 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def rank() -> int:
    """Number of this process; 0 without torchrun."""
    return int(os.environ["RANK"]) if processes() else 0


def local_rank() -> int:
    """Number of this process on its machine; 0 without torchrun."""
    return int(os.environ["LOCAL_RANK"]) if processes() else 0


def fail(message: str) -> NoReturn:
    """End with exit code 1 and a line that, of processes with the same mistake, the first prints.

    For mistakes in the command; `ranks.joined` speaks of what goes wrong in a run.
    """
    if rank():
        time.sleep(GRACE_S)  # torchrun ends this process as soon as the first has spoken
    sys.exit(f"error: {message}")
