"""Packages that only some runs need.

parquet = need("pyarrow.parquet", "formats", "a Parquet source")
"""

from __future__ import annotations

import importlib
from typing import Any

from jaxlm.core.config import UserError


def need(module: str, extra: str, what: str) -> Any:
    """Imports an optional package; the error where it is missing names the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UserError(
            f"{what} needs the package {package}; install it: pip install 'jaxlm[{extra}]'"
        ) from None
