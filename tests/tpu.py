"""Tests that need libtpu: left out where it is missing, unless it is said that it has to be here.

    pytestmark = needs_libtpu

With NEED_LIBTPU=1, as `.ci/run` sets it, they run and fail instead: a test that never runs holds
nothing.
"""

import importlib.util
import os

import pytest

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None and os.environ.get("NEED_LIBTPU") != "1",
    reason="libtpu is missing; pip install -e '.[tpu]'",
)
