"""Errors that are the user's to mend: one line: what, where, what is accepted, what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake of the user; shown as one message without a traceback, exit code 1."""


class ConfigError(UserError):
    """A key, value or combination of values in the configuration that cannot be run."""


class DataError(UserError):
    """A dataset that is missing, incomplete or corrupt."""


def choice(key: str, value: str, accepted: tuple[str, ...]) -> None:
    """Refuse a value outside a closed list.

    Raises:
        ConfigError: naming the key, the value found and what is accepted.
    """
    if value not in accepted:
        raise ConfigError(f"{key}: {value!r} is not one of {', '.join(accepted)}")


def require(condition: bool, message: str) -> None:
    """Refuse a configuration unless the condition holds.

    Raises:
        ConfigError: with the message, which names the key, what was found and what is accepted.
    """
    if not condition:
        raise ConfigError(message)


@contextmanager
def enough_memory() -> Iterator[None]:
    """Turn a request for more memory than there is, on the CPU or a GPU, into one line.

    Raises:
        UserError: saying how much was asked for.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch raises the latter for both devices
        text = (str(error).splitlines() or [""])[0]
        if not isinstance(error, MemoryError) and not (
            "can't allocate memory" in text or "out of memory" in text
        ):
            raise
        found = re.search(r"allocate ([\d.]+) (\w+)", text)
        asked = f"{found[1].rstrip('.')} {found[2]} asked for" if found else "no more to be had"
        raise UserError(
            f"out of memory ({asked}); try a smaller dataset.batch_size, method.timesteps or model"
        ) from error
