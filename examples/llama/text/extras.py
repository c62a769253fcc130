"""Packages that only real text needs: imported where they are used, not before."""

import importlib
from typing import Any

from examples.llama.config import InputError


def import_extra(package: str) -> Any:
    """Import a package of the extra `c4`.

    Raises:
        InputError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise InputError(
            f"this needs the package {package}, which is not installed: "
            f"pip install 'multinorm-optax[c4]'"
        ) from error
