"""Collecting what is wrong with a dataset, so that the user hears of all of it at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from snnrun.errors import DataError

SHOWN = 20  # of the problems of one dataset: a broken disk would fill the screen


class DataErrors(DataError):
    """Several problems, one line each; a single one reads like any other error."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        shown = problems[:SHOWN]
        if len(problems) > SHOWN:
            shown = [*shown, f"and {len(problems) - SHOWN} more"]
        head = [f"{len(problems)} problems"] if len(problems) > 1 else []
        super().__init__("\n  ".join([*head, *shown]))


class Problems:
    """Goes on after a problem and raises everything found at the end."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Note a data error instead of letting it through."""
        try:
            yield
        except DataErrors as error:
            self.found.extend(error.problems)
        except DataError as error:
            self.found.append(str(error))

    def report(self) -> None:
        """Say everything that was found, equal problems once.

        Raises:
            DataErrors: if anything was.
        """
        if self.found:
            raise DataErrors(list(dict.fromkeys(self.found)))
