"""Compares the XLA options of `jaxlm.training.compiler` with others, by the compiler's schedule.

    python tools/tune_xla.py configs/pretrain/llama3.1_8b.yaml model.num_layers=4 \
        mesh.topology=v5p:2x2x4 mesh.fsdp=16 train.batch_size=16

Compiles the config's train step for its topology with each set of options, and prints what a device
computes and waits for (`jaxlm.plan.hlo.schedule`) and what it holds. Needs libtpu and no TPU. These
are the compiler's estimates: they compare schedules, and are not measured times.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxlm.plan.compiling import Compiled, compile_for, devices_of
from jaxlm.plan.devices import Topology
from jaxlm.plan.memory import of_compiled
from jaxlm.plan.shapes import planned
from jaxlm.run import load_run
from jaxlm.training.compiler import options_for

ON = "true"
# What is laid over the shipped options, one set after another.
MORE: dict[str, dict[str, str]] = {
    "all-reduce in fusions": {
        "xla_enable_async_all_reduce": ON,
        "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": ON,
    },
    "reduce-scatter in fusions": {"xla_tpu_enable_async_collective_fusion_fuse_reduce_scatter": ON},
    "data-parallel all-reduce": {
        "xla_tpu_enable_data_parallel_all_reduce_opt": ON,
        "xla_tpu_data_parallel_opt_different_sized_ops": ON,
    },
    "collectives overlapped with kernels": {
        "xla_tpu_enable_async_collective_fusion_with_mosaic_custom_call": ON
    },
    "latency hiding": {"xla_tpu_enable_latency_hiding_scheduler": ON},
    "sparse cores": {
        "xla_tpu_enable_sparse_core_collective_offload_all_gather": ON,
        "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": ON,
        "xla_tpu_enable_sparse_core_collective_offload_all_reduce": ON,
    },
    "gathers of the next layer": {"xla_tpu_enable_ag_backward_pipelining": ON},
    "all experiments of the scheduler": {
        "xla_tpu_enable_all_experimental_scheduler_features": ON,
        "xla_latency_hiding_scheduler_rerun": "2",
    },
    "chains over turns of a loop": {
        "xla_should_allow_loop_variant_parameter_in_chain": "ENABLED",
        "xla_should_add_loop_invariant_op_in_chain": "ENABLED",
    },
    "layouts for sums": {
        "xla_tpu_use_minor_sharding_for_major_trivial_input": ON,
        "xla_tpu_relayout_group_size_threshold_for_reduce_scatter": "1",
    },
    "no windowed products": {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"},
    "vmem 32 MiB": {"xla_tpu_scoped_vmem_limit_kib": "32768"},
    "vmem 64 MiB": {"xla_tpu_scoped_vmem_limit_kib": "65536"},
    "vmem 96 MiB": {"xla_tpu_scoped_vmem_limit_kib": "98304"},
}


def candidates(shipped: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(name, what to lay over the shipped options); an empty value takes an option out."""
    yield "as shipped", {}
    yield "none", dict.fromkeys(shipped, "")
    for name, more in MORE.items():
        if any(shipped.get(option) != value for option, value in more.items()):
            yield f"with {name}", more
    for option in shipped:
        yield f"without {option}", {option: ""}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument(
        "--only", help="sets whose names this expression finds, and the shipped one"
    )
    arguments = parser.parse_args()
    config = planned(load_run(arguments.config, arguments.overrides).config)
    assert config.mesh.topology is not None, "mesh.topology names the pod"
    topology = Topology.read(config.mesh.topology)
    shipped = options_for(devices_of(topology)[0].device_kind, {})
    print(f"{topology}\n{'set':64} {'step':>9} {'core':>9} {'waits':>9} {'GiB':>7}", flush=True)
    for name, more in candidates(shipped):
        if arguments.only and not re.search(f"{arguments.only}|as shipped", name):
            continue
        chosen = config.replace(train=config.train.replace(xla={**config.train.xla, **more}))
        try:
            found = compile_for(chosen, topology)
        except Exception as error:  # what a compiler does not take is an answer, too
            print(f"{name:64} {str(error).splitlines()[0][:80]}", flush=True)
            continue
        if not isinstance(found, Compiled):
            print(f"{name:64} no room: {found.message[:60]}", flush=True)
            continue
        own = found.schedule(topology)
        if own is None:
            print(f"{name:64} {topology.chip.label}: cycles are not known", flush=True)
            continue
        held = of_compiled(found, topology).total / 2**30
        print(
            f"{name:64} {own.step:>8.4f}s {own.core:>8.4f}s {own.waits:>8.4f}s {held:>7.2f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
