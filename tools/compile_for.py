"""Compiles one train step for accelerators that this machine does not have; prints what it finds.

    python tools/compile_for.py h100:8 --model llama-3.2-1b --mesh fsdp=4,tensor=2
    python tools/compile_for.py v6e:2x4 --model llama-3.2-1b --mesh fsdp=8 --quantization int8

Printed are the kernels that `auto` took, the program's products by the types of what they multiply,
its custom calls, gathers and reductions, the model's FLOPs, and the memory of a device.

For TPUs this needs libtpu (the extra `tpu`), for GPUs the packages jax-cuda13-plugin,
jax-cuda13-pjrt, nvidia-cudnn-cu13, nvidia-cublas, nvidia-cuda-runtime and nvidia-cuda-nvcc; for
both JAX_PLATFORMS=cpu. XLA compiles all that is its own. What it calls by name, such as cuDNN, is
first seen to fit by that library on the device: nothing here is executed, and no time is measured.
"""

from __future__ import annotations

import argparse
import logging
import re
import time
from collections import Counter
from typing import Any

import jax
from jax.experimental.topologies import get_topology_desc

from jaxlm.core.rows import text_rows
from jaxlm.kernels.registry import target_platform
from jaxlm.mesh import MeshConfig, batch_sharding
from jaxlm.models.families import preset
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.optim.adamw import AdamW
from jaxlm.plan.compiling import devices_of
from jaxlm.plan.devices import Topology
from jaxlm.training.learner import GradientLearner
from jaxlm.training.program import Program, make_program

# An H100's figures as XLA asks for them (openxla/xla, target_config/specs/h100_sxm.txtpb).
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 }
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
  device_address_bits: 64
}
"""
# (type of the first result, kind)
COLLECTIVE = r"= \(*(\w+)\[.*? (all-\w+|reduce-scatter|collective-permute)(?:-start)?\("


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("target", help="h100:COUNT, or a TPU's topology, such as v6e:2x4")
    parser.add_argument("--model", default="llama-3.2-1b", help="a preset; see: jaxlm presets")
    parser.add_argument("--layers", type=int, help="instead of the preset's")
    parser.add_argument("--seq-len", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--mesh", default="fsdp=-1", help="AXIS=SIZE,...")
    parser.add_argument("--remat", default="full")
    parser.add_argument("--quantization", choices=["int8", "fp8"])
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("jaxlm.kernels").setLevel(logging.INFO)

    platform, devices = target(arguments.target)
    learner = build(arguments, devices)
    program = learner.program
    with target_platform(platform):
        start = time.monotonic()
        compiled = learner.compile(batch(program, arguments))
    print(f"{len(devices)} x {devices[0].device_kind}: {time.monotonic() - start:.0f} s to compile")
    report(program, arguments, compiled)
    return 0


def target(name: str) -> tuple[str, list[Any]]:
    """The platform and the devices of a target."""
    kind, _, size = name.partition(":")
    if kind != "h100":
        return "tpu", devices_of(Topology.read(name))
    how = {"target_config": H100, "topology": f"1x1x{size}"}
    return "gpu", get_topology_desc(platform="cuda", topology_name="", **how).devices


def build(arguments: argparse.Namespace, devices: list[Any]) -> GradientLearner:
    changes = {"quantization": arguments.quantization, "remat": arguments.remat}
    if arguments.layers is not None:
        changes["num_layers"] = arguments.layers
    sizes = {axis: int(n) for axis, n in (x.split("=") for x in arguments.mesh.split(","))}
    program = make_program(
        mesh=MeshConfig(**{"data": 1, **sizes}).build(devices),
        model=preset(arguments.model).replace(**changes),
        objective=CausalLM(),
        batch_size=arguments.batch_size,
    )
    return GradientLearner(program, AdamW())


def batch(program: Program, arguments: argparse.Namespace) -> dict[str, jax.ShapeDtypeStruct]:
    """Packed rows of token ids."""
    rows = CausalLM().transform_spec(text_rows(arguments.seq_len + 1))
    shapes = rows.batch(arguments.batch_size)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(program.mesh, len(shape)))
        for name, (shape, dtype) in shapes.items()
    }


def report(program: Program, arguments: argparse.Namespace, compiled: Any) -> None:
    tokens = arguments.batch_size * arguments.seq_len
    flops = 3 * tokens * program.flops_per_token(arguments.seq_len)
    print(f"model FLOPs of a step: {flops:.3e}, {flops / program.mesh.size:.3e} a device")
    memory, gib = compiled.memory_analysis(), 2**30
    state, rest = memory.argument_size_in_bytes / gib, memory.temp_size_in_bytes / gib
    print(f"memory of a device: {state:.2f} GiB of state and batch, {rest:.2f} GiB besides")
    text = compiled.as_text()
    for name, found in (
        ("products", products(text)),
        ("custom calls", re.findall(r'custom_call_target="([^"]+)"', text)),
        ("collectives", re.findall(COLLECTIVE, text)),
    ):
        print(f"{name} (a loop's body counts once):")
        for what, count in sorted(Counter(found).items()):
            print(f"  {count:4} {what if isinstance(what, str) else ' '.join(what)}")


def products(text: str) -> list[str]:
    """The types of the factors and the result of each matrix product in a program."""
    types = dict(re.findall(r"%([\w.-]+) = (\w+)\[", text))
    found = re.findall(r"= (\w+)\[\S* (?:convolution|dot)\(%([\w.-]+), %([\w.-]+)\)", text)
    return [f"{types.get(a, '?')} x {types.get(b, '?')} -> {result}" for result, a, b in found]


if __name__ == "__main__":
    raise SystemExit(main())
