"""Where datasets are looked for, and where downloads go."""

import os
from pathlib import Path


def cache_home() -> Path:
    """The folder of this program in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snnrun"


def home(root: str | None) -> Path:
    """`root`, else `$SNNRUN_DATA`, else the user's cache: where downloads go."""
    named = root or os.environ.get("SNNRUN_DATA")
    return Path(named).expanduser().absolute() if named else cache_home()


def candidates(root: str | None, *names: str) -> list[Path]:
    """Folders that may hold a dataset known under `names`, best first.

    The root itself counts only when named for this dataset: several sets share file names.
    """
    nested = [home(root) / name for name in names]
    return [*nested, home(root)] if root is not None else nested
