"""An error shows the beginning of a long value, so that it stays one line that can be read."""

from __future__ import annotations

import pytest

from jaxlm.core.config import UserError
from jaxlm.data.reading.fetch import fetch, parse_requirement
from jaxlm.data.reading.rows import validate_delimiter
from jaxlm.plan.devices import Topology

LONG = "/" * 5000


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda: validate_delimiter(LONG), "must be one character"),
        (lambda: parse_requirement(LONG), "not a pinned package"),
        (lambda: fetch("a==1", LONG), "not 64 hexadecimal digits"),
        (lambda: Topology.read(LONG), "not a known chip"),
        (lambda: Topology.read(f"v5e:{LONG}"), "has no shape"),
    ],
)
def test_a_long_value_is_cut(read, said):
    with pytest.raises(UserError, match=said) as error:
        read()
    assert len(str(error.value)) < 300
