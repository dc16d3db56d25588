"""Numbers as short texts for people.

human(12_345)       # 12.3k
duration(252)       # 4m12s
scientific(3e-4)    # 3e-4
percent(0.412)      # 41%
"""

from __future__ import annotations

import math


def human(value: float) -> str:
    """A count with three digits: 950, 12.3k, 4.56M, 1.20B."""
    if not math.isfinite(value):
        return str(value)
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            scaled = value / limit
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """A duration in at most two units: 42s, 4m12s, 1h04m, 3d07h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    minutes = whole // 60
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes // 1440}d{minutes % 1440 // 60:02d}h"


def scientific(value: float) -> str:
    """One or two digits and a power of ten: 3e-4, 2.7e-4."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def percent(fraction: float) -> str:
    """A share with up to two digits: 41%, 0.3%."""
    return f"{fraction:.0%}" if not fraction < 0.0995 else f"{fraction:.1%}"
