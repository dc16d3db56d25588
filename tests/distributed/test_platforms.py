"""jax looks for no TPU where libtpu is installed and none is there; all else is left as it is."""

from __future__ import annotations

import os

import pytest

from jaxlm.distributed import platforms


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({}, "cpu"),
        ({"library": None}, None),
        ({"devices": ["/dev/accel0"]}, None),
        ({"devices": ["/dev/vfio/0"]}, None),
        ({"plugins": ["cuda"]}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, None),
        ({"TPU_ACCELERATOR_TYPE": "v5litepod-8"}, None),
        ({"TPU_SKIP_MDS_QUERY": "1", "TPU_ML_PLATFORM": "JAX"}, "cpu"),  # jax sets them anywhere
        ({"JAX_PLATFORMS": "tpu"}, "tpu"),
        ({"JAX_PLATFORMS": ""}, ""),
    ],
)
def test_an_absent_tpu_is_not_looked_for(monkeypatch, case, expected):
    for name in [n for n in os.environ if n.startswith(("TPU_", "JAX_PLATFORMS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_PLATFORMS", "")  # so that it is put back, whatever is set
    monkeypatch.delenv("JAX_PLATFORMS")
    for name, value in case.items():
        if name.isupper():
            monkeypatch.setenv(name, value)
    matches = {"accel": "/dev/accel*", "vfio": "/dev/vfio/[0-9]*"}
    files = {matches[name.split("/")[2].rstrip("0")]: [name] for name in case.get("devices", [])}
    monkeypatch.setattr(platforms.glob, "glob", lambda pattern: files.get(pattern, []))
    library = case.get("library", "libtpu")
    monkeypatch.setattr(platforms.importlib.util, "find_spec", lambda name: library)
    plugins = case.get("plugins", [])
    monkeypatch.setattr(platforms.importlib.metadata, "entry_points", lambda group: plugins)
    platforms.skip_absent_tpu()
    assert os.environ.get("JAX_PLATFORMS") == expected
