"""Folders and files of a run: there when something came of it, and otherwise as before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from snnrun.errors import UserError


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; when the body raises, remove those of them left empty.

    Raises:
        UserError: it cannot be made.
    """
    with writing(folder, "output_dir"):
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty: something did come of it
            for place in missing:
                place.rmdir()
        raise


@contextmanager
def owned(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Make a run's folder and own it: the same specification started twice is computed once.

    Args:
        folder: of the run.
        say: tells the user that another process has it, which is waited for.

    Raises:
        UserError: it cannot be made or written.
    """
    lock = FileLock(folder / "lock")
    with made(folder):
        with writing(folder, "output_dir"):
            try:
                lock.acquire(blocking=False)
            except Timeout:  # an OSError
                say(f"another process runs this specification ({folder}); waiting for it")
                _wait(lock, folder)
        try:
            yield
        except BaseException:
            # A folder in which nothing was made goes. Any other keeps its lock: who waits for the
            # file and who comes later would else each own one.
            with suppress(OSError):
                if [path.name for path in folder.iterdir()] == ["lock"]:
                    (folder / "lock").unlink()
            raise
        finally:
            lock.release()


def _wait(lock: FileLock, folder: Path) -> None:
    while not lock.is_locked:
        try:
            lock.acquire()
        except FileNotFoundError:  # its owner failed with nothing made, and took the folder away
            folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def writing(place: Path, key: str) -> Iterator[None]:
    """Turn a failure to write to a file or folder into one line.

    Args:
        place: what is written.
        key: the option or key that named it.

    Raises:
        UserError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{key}: cannot write {place} ({error.strerror}); make room or choose another place"
        ) from error


def replace(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside `path`, then move it there in one step.

    One process at a time owns the folder, so what a killed one left has the same name and goes.

    Raises:
        UserError: it cannot be written; `path` is untouched, as it is when `write` raises.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
