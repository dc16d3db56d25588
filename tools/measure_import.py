"""The host memory that an import needs beyond the parameters: the highest seen, by /proc.

    python tools/measure_import.py --shards 40 --layers 38 --width 768

Makes a GPT-2 in bfloat16 with random weights, a layer a shard or so, imports it in a process of its
own whose memory is read 200 times a second, and prints the peak, the parameters and the difference.
The memory of Python, jax and their libraries before the import is not counted, nor are pages of
mapped files, which the system can reclaim; these are printed separately.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from jaxlm.core.tree import flatten
from jaxlm.hf.importing import import_model
from jaxlm.hf.shards import Header, write_shards
from jaxlm.mesh import MeshConfig
from jaxlm.models.families import family_of
from jaxlm.models.families.gpt2 import gpt2
from jaxlm.models.families.shared.table import locate, tensor_shapes
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.training.program import make_program

ALLOWED = 1.2  # of the largest shard


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--layers", type=int, default=38)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        return watch(Path(arguments.folder))
    with tempfile.TemporaryDirectory() as folder:
        total, count = make(Path(folder) / "model", arguments)
        words = [sys.executable, __file__, "--folder", folder]
        found = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
        largest = max(p.stat().st_size for p in Path(folder).glob("model/*.safetensors"))
    mib = 2**20
    beyond = found["peak"] - found["before"] - 4 * count
    print(f"{count:,} parameters: {4 * count / mib:.0f} MiB, {total / mib:.0f} MiB as stored")
    print(f"before {found['before'] / mib:.0f} MiB, peak {found['peak'] / mib:.0f} MiB (anonymous)")
    print(f"mapped files at the peak: {found['mapped'] / mib:.0f} MiB beyond those before")
    print(f"largest shard {largest / mib:.1f} MiB; beyond the parameters {beyond / mib:.1f} MiB, ")
    print(f"{beyond / largest:.2f} x the largest shard (allowed {ALLOWED})")
    return 0 if beyond <= ALLOWED * largest else 1


def make(folder: Path, arguments: argparse.Namespace) -> tuple[int, int]:
    """Writes the model; returns the bytes of its tensors and the number of its parameters."""
    heads = arguments.width // 64
    config = gpt2(arguments.width, arguments.layers, heads).replace(vocab_size=8192)
    family = family_of("gpt2")
    mesh = MeshConfig(data=1, num_devices=1).build()
    program = make_program(mesh=mesh, model=config, objective=CausalLM())
    shapes = {path: leaf.shape for path, leaf in flatten(program.abstract_params).items()}
    wanted = tensor_shapes(locate(family.tensors(config), shapes))
    headers = {name: Header("bfloat16", shape) for name, shape in wanted.items()}
    rng = np.random.default_rng(0)
    arrays = (
        (name, rng.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16))
        for name, shape in wanted.items()
    )
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(family.to_hf(config)))
    total = sum(header.nbytes for header in headers.values())
    write_shards(folder, headers, arrays, max_bytes=total // (arguments.shards - 1))
    return total, sum(map(math.prod, shapes.values()))


def watch(folder: Path) -> int:
    """The import, while a thread samples its memory."""
    jax.block_until_ready(jax.jit(lambda x: x + 1)(1))  # the runtime's own memory is there
    from orbax.checkpoint import v1  # noqa: F401

    before, peak, mapped, done = memory(), [0], [0], threading.Event()

    def look() -> None:
        while not done.is_set():
            now = memory()
            peak[0] = max(peak[0], now["RssAnon"])
            mapped[0] = max(mapped[0], now["RssFile"])
            time.sleep(0.005)

    thread = threading.Thread(target=look)
    thread.start()
    import_model(folder / "model", folder / "run", report=lambda line: print(line, file=sys.stderr))
    done.set()
    thread.join()
    found = {"before": before["RssAnon"], "peak": peak[0]}
    print(json.dumps(found | {"mapped": mapped[0] - before["RssFile"]}))
    return 0


def memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split()[:2] for line in lines if line.startswith("Rss"))
    return {name.rstrip(":"): 1024 * int(value) for name, value in pairs}


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    raise SystemExit(main())
