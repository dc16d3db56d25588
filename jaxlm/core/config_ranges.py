"""The range of a config's number: what its field says, and what an int32 or a float32 can hold."""

from __future__ import annotations

import operator
import struct
from collections.abc import Mapping

from jaxlm.core.errors import shown

_INT32 = {"ge": -(2**31), "lt": 2**31}
_FLOAT32 = {"ge": -3.4028234663852886e38, "le": 3.4028234663852886e38}
_SMALLEST = 2.0**-126  # smaller ones are 0 on most devices
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def out_of_range(value: float, own: Mapping[str, float | None]) -> tuple[str, str] | None:
    """The problem with a number, and its fix; None where it is in the range.

    A float is computed with as a float32, which must be in the range, too: there 0.99999999 is 1.
    """
    if value != value:
        return "is not a number (nan)", "set a finite number"
    bounds = {name: bound for name, bound in own.items() if bound is not None}
    for name, bound in (_INT32 if isinstance(value, int) else _FLOAT32).items():
        stated = bounds.keys() & {name[0] + "e", name[0] + "t"}
        if not stated and not getattr(operator, name)(value, bound):
            bounds[name] = bound
    fix = "set it " + " and ".join(f"{_SIGNS[name]} {bound}" for name, bound in bounds.items())
    if not all(getattr(operator, name)(value, bound) for name, bound in bounds.items()):
        return f"{shown(value)} is out of range", fix
    if isinstance(value, float) and abs(value) <= _FLOAT32["le"]:
        if 0 < abs(value) < _SMALLEST:
            return f"{value!r} is 0 in float32", f"set it to 0 or to at least {_SMALLEST:.2e}"
        (rounded,) = struct.unpack("f", struct.pack("f", value))
        strict = {name: bound for name, bound in bounds.items() if name in ("gt", "lt")}
        if not all(getattr(operator, name)(rounded, bound) for name, bound in strict.items()):
            return f"{value!r} is out of range: it is {rounded!r} in float32", fix
    return None
