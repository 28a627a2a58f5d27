"""Folders and files of a run: there when something came of it, and otherwise as before."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snnrun.errors import UserError


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; when the body raises, remove those of them left empty.

    Raises:
        UserError: it cannot be made.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty: something did come of it
            for place in missing:
                place.rmdir()
        raise


def unwritable(folder: Path, error: OSError) -> UserError:
    """What to say of an output folder that cannot be written."""
    return UserError(
        f"output_dir: cannot write {folder} ({error.strerror}); "
        "set output_dir to a folder that can be written"
    )


def replace(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside `path`, then move it there in one step.

    Raises:
        UserError: it cannot be written; `path` is untouched, as it is when `write` raises.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # of a killed process that had this number
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
