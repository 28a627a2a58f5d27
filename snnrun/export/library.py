"""Libraries of the ``export`` extra, imported where a format needs them."""

import importlib
from types import ModuleType

from snnrun.errors import UserError


def library(name: str) -> ModuleType:
    """The library.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is not installed: pip install snnrun[export]") from error
