"""Every test runs on eight simulated CPU devices, which must be set before jax is imported.

LLVM's own optimizations are left out: what XLA does to a program is the same, and a step that runs
twenty times compiles in half the time. Processes that tests start have their own settings.
"""

import os

FLAGS = {
    "xla_force_host_platform_device_count": "8",
    "xla_backend_optimization_level": "0",
}

os.environ["JAX_PLATFORMS"] = "cpu"
given = os.environ.get("XLA_FLAGS", "")
missing = [f"--{name}={value}" for name, value in FLAGS.items() if name not in given]
os.environ["XLA_FLAGS"] = " ".join([given, *missing]).strip()
