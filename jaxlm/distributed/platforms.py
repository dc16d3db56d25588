"""Which kinds of device jax looks for: no TPU where libtpu is installed on a machine without one.

    skip_absent_tpu()       # at the start of a process, before jax makes the devices

libtpu, which `jaxlm plan` compiles with on any machine, writes seven lines of warnings to standard
error and takes seconds to find that there is no TPU. Only the environment and the files of devices
are read, no jax is imported.
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
    """Leaves jax the CPU alone where libtpu would be loaded without a TPU.

    What a user says by JAX_PLATFORMS holds. Where another accelerator's plugin is installed, jax
    makes the choice as ever.
    """
    if "JAX_PLATFORMS" in os.environ or importlib.util.find_spec("libtpu") is None:
        return
    told = any(n.startswith("TPU_") and not n.startswith(ANYWHERE) for n in os.environ)
    present = any(glob.glob(pattern) for pattern in DEVICES)
    if not told and not present and not importlib.metadata.entry_points(group="jax_plugins"):
        os.environ["JAX_PLATFORMS"] = "cpu"
