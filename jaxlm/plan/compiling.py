"""Compiles the train step of a config for a TPU topology that this machine does not have.

    found = compile_for(config, Topology.read("v5p:4x4x8"))
    found.counts.flops, found.memory.total, found.executable

The devices come from libtpu's description of the topology. The program, its shardings, kernels and
compiler options are those of `jaxlm train`. A program that does not fit is returned as
`OutOfMemory`, with the compiler's figures.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jax.sharding import Mesh

from jaxlm.core.config import UserError
from jaxlm.kernels.registry import target_platform
from jaxlm.plan.devices import Topology
from jaxlm.plan.hlo.collectives import Network
from jaxlm.plan.hlo.count import Counts, count_module
from jaxlm.plan.hlo.kernels import ModelFacts
from jaxlm.plan.hlo.liveness import Timeline, live
from jaxlm.plan.hlo.schedule import StepSchedule, scheduled
from jaxlm.plan.hlo.text import Module, parse
from jaxlm.plan.shapes import batch_spec_of
from jaxlm.run import RunConfig
from jaxlm.training.build import learner_of
from jaxlm.training.compiler import options_for
from jaxlm.training.learner import Learner
from jaxlm.training.program import Program

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class OutOfMemory:
    """The compiler's report on a program that does not fit."""

    needed: float | None  # bytes of a device; None: not reported
    available: float | None
    message: str


@dataclass(frozen=True)
class Compiled:
    """A compiled train step and what it consists of."""

    executable: Any
    learner: Learner
    mesh: Mesh
    batch_spec: dict[str, Any]
    options: dict[str, str]
    seconds: float

    @property
    def program(self) -> Program:
        return self.learner.program

    @cached_property
    def text(self) -> str:
        return self.executable.as_text()

    @cached_property
    def slices(self) -> list[int]:
        """The slice of each device, in the order of the mesh."""
        return [int(getattr(d, "slice_index", 0) or 0) for d in self.mesh.devices.flat]

    @cached_property
    def module(self) -> Module:
        return parse(self.text)

    @cached_property
    def network(self) -> Network:
        return Network({str(axis): size for axis, size in self.mesh.shape.items()}, self.slices)

    def counts(self, model: ModelFacts | None = None) -> Counts:
        return count_module(self.module, self.network, model)

    def schedule(self, topology: Topology, model: ModelFacts | None = None) -> StepSchedule | None:
        """The compiler's own estimate of the time; None if it has none."""
        return scheduled(self.module, self.network, topology, model)

    @cached_property
    def timeline(self) -> Timeline:
        return live(self.module)

    @cached_property
    def stats(self) -> Any:
        """XLA's own figures of the program's memory; None if it has none."""
        return self.executable.memory_analysis()


def can_compile(topology: Topology) -> str:
    """The reason why a step cannot be compiled for a topology here; "" if it can."""
    if not topology.chip.is_tpu:
        return f"{topology.chip.label} steps are not compiled here"
    if importlib.util.find_spec("libtpu") is None:
        return "libtpu is missing; `pip install 'jaxlm[tpu]'` brings it"
    return ""


def devices_of(topology: Topology) -> list[Any]:
    """jax's devices of a topology. Raises `UserError` for one that libtpu does not know."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # does not query the metadata server
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # does not use a chip
    from jax.experimental import topologies

    name = f"{topology.chip.name}:{'x'.join(map(str, topology.shape))}"
    more: dict[str, Any] = {} if topology.slices == 1 else {"num_slices": topology.slices}
    more["wrap"] = topology.wrapped
    if topology.chip.cores is not None:
        more["chip_config_name"] = topology.chip.cores
    try:
        with machine_described(tpus=_has_tpus()):
            found = topologies.get_topology_desc(platform="tpu", topology_name=name, **more)
    except Exception as error:
        line = str(error).splitlines()[0]
        raise UserError(
            f"--topology: libtpu has no {topology}: {line[:200]}; use a shape that is sold, "
            "such as v5e:16x16 or v5p:4x4x8"
        ) from None
    return list(found.devices)


# The machine's description, which libtpu would otherwise look for and warn about. It describes one
# host of any kind, and does not affect the topology that is compiled for.
_MACHINE = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


@contextlib.contextmanager
def machine_described(*, tpus: bool) -> Iterator[None]:
    """A block in which libtpu loads without warnings on a machine without TPUs.

    Environment variables that the user has set are kept; the others are removed afterwards.
    """
    added = {} if tpus else {k: v for k, v in _MACHINE.items() if k not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _has_tpus() -> bool:
    return any(glob.glob(pattern) for pattern in ("/dev/accel*", "/dev/vfio/[0-9]*"))


def compile_for(
    config: RunConfig, topology: Topology, *, quick: bool = False
) -> Compiled | OutOfMemory:
    """The train step of a config for a topology.

    `quick` compiles without optimizations: in a third of the time, with a memory that may be above
    or below that of the optimized step.
    """
    devices = devices_of(topology)
    options = options_for(devices[0].device_kind, config.train.xla)
    if quick:
        options["optimization_level"] = "9"  # EFFORT_O0 of xla.proto
    mesh = config.mesh.build(devices)
    return compile_on(config, mesh, options, platform="tpu")


def compile_on(
    config: RunConfig, mesh: Mesh, options: dict[str, str], *, platform: str
) -> Compiled | OutOfMemory:
    """The train step of a config on a mesh, compiled with these options."""
    start = time.monotonic()
    learner = learner_of(config, mesh)
    spec = batch_spec_of(config, mesh)
    try:
        with target_platform(platform):
            executable = learner.compile(spec, options)
    except UserError:
        raise
    except Exception as error:
        found = read_out_of_memory(str(error))
        if found is None:
            raise
        return found
    return Compiled(executable, learner, mesh, spec, options, time.monotonic() - start)


def read_out_of_memory(message: str) -> OutOfMemory | None:
    """The figures in a compiler's out-of-memory message; None for another message."""
    if "RESOURCE_EXHAUSTED" not in message and "OutOfMemory" not in message:
        return None
    amounts = r"\(?([\d.]+)([KMGT]?)i?B?\)?"
    found = re.search(amounts + r"(?: bytes)? exceeds (?:available HBM )?" + amounts, message)
    used = re.search(r"Used " + amounts + r" of " + amounts, message)
    match = found or used
    line = next((x for x in message.splitlines() if "xceed" in x or "memory" in x), message)
    if match is None:
        return OutOfMemory(None, None, line[:300])
    needed = float(match[1]) * _UNITS[match[2]]
    return OutOfMemory(needed, float(match[3]) * _UNITS[match[4]], line[:300])
