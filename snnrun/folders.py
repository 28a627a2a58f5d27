"""Folders that are there while something is written to them, and gone when nothing came of it."""

from collections.abc import Iterator
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
