"""`jaxlm doctor`: versions, devices, memory and disk space of a machine, and a self-test.

    found = examine()          # a dict of plain values, for --json
    print(render(found))       # the same for a person

Nothing is changed and nothing is downloaded. Each entry of "problems" says how to fix it.
`found["ok"]` is false only if jax computes a wrong result or the cache cannot be written.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from jaxlm.data.reading.fetch import default_cache_dir
from jaxlm.runs.environment import CORE, devices, versions

LITTLE_DISK = 5 * 2**30  # a small run's checkpoints and token store
LITTLE_MEMORY = 2 * 2**30

Found = dict[str, Any]


def examine(cache_dir: Path | None = None, seconds: float = 2.0) -> Found:
    """Looks at this machine; the self-test takes about `seconds` and the time to compile it."""
    found: Found = {
        "versions": versions(),
        "devices": devices(),
        "memory": _memory(),
        "cache": _cache(cache_dir or default_cache_dir()),
        "self_test": _self_test(seconds),
    }
    found["problems"] = _problems(found)
    test = found["self_test"]
    found["ok"] = test["matmul_agrees"] and test["all_reduce_agrees"] and found["cache"]["writable"]
    return found


def render(found: Found) -> str:
    """`examine`'s findings as aligned lines."""
    devices, memory, cache = found["devices"], found["memory"], found["cache"]
    test = found["self_test"]
    rows = [("versions", ""), *((f"  {name}", text) for name, text in found["versions"].items())]
    local, count = devices["local"], devices["count"]
    shown = f"{count} x {devices['kind']} ({devices['platform']})"
    if devices["processes"] > 1:
        shown += f", {local} of them here; process {devices['process']} of {devices['processes']}"
    rows += [
        ("devices", shown),
        ("  memory of each", _size(devices["memory_bytes"])),
        ("host", f"{found['versions']['platform']}, {memory['cores']} cores"),
        ("  memory", f"{_size(memory['total'])}, {_size(memory['available'])} of it free"),
        ("cache", cache["path"]),
        ("  room on its disk", f"{_size(cache['free'])} of {_size(cache['total'])}"),
        ("self-test", f"{test['seconds']:.1f} s"),
        ("  matmul float32", f"{test['gflops_float32']:,.0f} GFLOP/s"),
        ("  matmul bfloat16", f"{test['gflops_bfloat16']:,.0f} GFLOP/s"),
        ("  matmul = NumPy's", "yes" if test["matmul_agrees"] else "NO"),
        (f"  sum over {count} devices", "right" if test["all_reduce_agrees"] else "WRONG"),
    ]
    width = max(len(name) for name, _ in rows) + 2
    lines = [f"{name:<{width}}{text}".rstrip() for name, text in rows]
    problems = [f"! {problem}" for problem in found["problems"]] or ["all is well"]
    return "\n".join([*lines, "", *problems])


def _size(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**30:,.1f} GiB"


def _memory() -> Found:
    """Bytes of the host's memory; None if the system does not report them."""
    sizes: dict[str, int] = {}
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            name, _, rest = line.partition(":")
            sizes[name] = int(rest.split()[0]) * 1024
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"total": sizes.get("MemTotal"), "available": sizes.get("MemAvailable"), "cores": cores}


def _cache(folder: Path) -> Found:
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    usage = shutil.disk_usage(existing)
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    return {"path": str(folder), "free": usage.free, "total": usage.total, "writable": writable}


def _self_test(seconds: float) -> Found:
    started = time.perf_counter()
    found = {
        "matmul_agrees": _matmul_agrees(),
        "all_reduce_agrees": _all_reduce_agrees(),
        "gflops_float32": _matmul_speed("float32", seconds / 2),
        "gflops_bfloat16": _matmul_speed("bfloat16", seconds / 2),
    }
    return {"seconds": time.perf_counter() - started, **found}


def _matmul_agrees() -> bool:
    import jax
    import numpy as np

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 256, 256), dtype=np.float32)
    product = jax.jit(lambda a, b: jax.numpy.matmul(a, b, precision="highest"))(a, b)
    return bool(np.allclose(product, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-4))


def _all_reduce_agrees() -> bool:
    """Whether a sum over an array that is split over all devices, of all processes, is exact."""
    import jax
    import numpy as np

    from jaxlm.mesh import MeshConfig, batch_sharding

    mesh = MeshConfig().build()
    values = np.arange(16 * mesh.devices.size, dtype=np.int32)
    sharding = batch_sharding(mesh, 1)
    split = jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
    return int(jax.jit(lambda x: x.sum())(split)) == int(values.sum())


def _matmul_speed(dtype: str, seconds: float) -> float:
    """GFLOP/s of a square matmul on one device: the best of all that fit in `seconds`."""
    import jax
    import jax.numpy as jnp

    device = jax.local_devices()[0]
    size, chain = (1024, 1) if device.platform == "cpu" else (4096, 16)
    x = jax.device_put(jnp.eye(size, dtype=dtype), device)
    # a chain of products in one program, so that an accelerator's dispatch does not count
    multiply = jax.jit(lambda x: jax.lax.fori_loop(0, chain, lambda _, y: y @ x, x))
    multiply(x).block_until_ready()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        multiply(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return chain * 2 * size**3 / best / 1e9


def _problems(found: Found) -> list[str]:
    devices, cache, test = found["devices"], found["cache"], found["self_test"]
    problems = []
    for name in CORE:
        if found["versions"][name].startswith("not installed"):
            problems.append(f"{name} is not installed; run: pip install jaxlm")
    if devices["platform"] == "cpu":
        if shutil.which("nvidia-smi"):
            problems.append("a GPU is here but jax uses the CPU; run: pip install 'jaxlm[cuda]'")
        if Path("/dev/accel0").exists():
            problems.append("a TPU is here but jax uses the CPU; run: pip install 'jaxlm[tpu]'")
    if not cache["writable"]:
        problems.append(f"{cache['path']} cannot be written; set JAXLM_CACHE to a folder that can")
    elif cache["free"] < LITTLE_DISK:
        problems.append(
            f"only {_size(cache['free'])} free at {cache['path']}; make room or set JAXLM_CACHE"
        )
    available = found["memory"]["available"]
    if available is not None and available < LITTLE_MEMORY:
        problems.append(f"only {_size(available)} of memory free; end other programs")
    if not test["matmul_agrees"]:
        problems.append("jax multiplies wrongly on this device; update its driver or reinstall jax")
    if not test["all_reduce_agrees"]:
        problems.append("a sum over the devices is wrong; check their links, or use fewer devices")
    return problems
