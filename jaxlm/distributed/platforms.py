"""Whether there is an accelerator; keeps jax from looking for a TPU that is not there.

    skip_absent_tpu()       # at the start of a process, before jax makes the devices

`jaxlm plan` compiles with libtpu on any machine. Without a TPU, libtpu takes seconds to find that
out and writes seven lines of warnings to standard error. This module reads the environment and the
device files only, and does not import jax.
"""

from __future__ import annotations

import glob
import importlib.metadata
import importlib.util
import os

DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*")  # of TPUs up to v4, and of later ones
# set by a user or a library on a machine of any kind
ANYWHERE = ("TPU_LIBRARY_PATH", "TPU_SKIP_MDS", "TPU_STDERR_LOG", "TPU_MIN_LOG", "TPU_ML_PLATFORM")


def skip_absent_tpu() -> None:
    """Sets JAX_PLATFORMS=cpu if jax would load libtpu without a TPU.

    JAX_PLATFORMS of the user has precedence. If the plugin of another accelerator is installed, jax
    chooses as usual.
    """
    if "JAX_PLATFORMS" in os.environ or importlib.util.find_spec("libtpu") is None:
        return
    if not has_accelerator():
        os.environ["JAX_PLATFORMS"] = "cpu"


def has_accelerator() -> bool:
    """Whether jax will choose a TPU, a GPU or another plugin, as the environment and files say."""
    named = os.environ.get("JAX_PLATFORMS")
    if named:
        return named.split(",")[0] != "cpu"
    configured = any(n.startswith("TPU_") and not n.startswith(ANYWHERE) for n in os.environ)
    present = any(glob.glob(pattern) for pattern in DEVICES)
    return configured or present or bool(importlib.metadata.entry_points(group="jax_plugins"))
