"""A compiled train step in a file: `jaxlm plan --save` keeps it, `train.compiled` names it.

    save(executable, config, learner, spec, options, "step.bin")
    step, why = load(config, learner, spec, options, "step.bin")   # (None, why) of another one

The file is a line of JSON and then the compiler's own bytes, with a SHA-256 over both; there is no
pickle in it. What the step takes and gives is rebuilt from the program's abstract state. It is used
only where everything that made it agrees: versions, this package's code and that of parts from
elsewhere, the fields of the config that the step is traced from (`field(affects=)`), options,
devices and their places in the mesh.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlm.core import config as configs
from jaxlm.core.config import Config, UserError
from jaxlm.core.files import write_atomic
from jaxlm.runs.identity import code_sha256
from jaxlm.training.learner import Frozen, Learner
from jaxlm.training.program import Program
from jaxlm.training.state import State

FORMAT = 3
PACKAGES = ("jaxlib", "flax", "optax", "qwix", "jax-cuda13-plugin", "libtpu")
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_DEFAULT_MATMUL_PRECISION")


class SavedStep:
    """(state, frozen, batch) -> (state, metrics), by a loaded executable; the state is donated."""

    def __init__(self, loaded: Any, learner: Learner, header: Mapping[str, Any]) -> None:
        self._loaded, self._kept = loaded, header["kept"]
        abstract = learner.abstract_state()
        replicated = jax.sharding.NamedSharding(learner.program.mesh, jax.sharding.PartitionSpec())
        metrics = {
            name: tuple(
                jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=replicated)
                for shape, dtype in pair
            )
            for name, pair in header["metrics"].items()
        }
        self._outputs, self._tree = jax.tree.flatten((abstract, metrics))

    def __call__(
        self, state: State, frozen: Frozen, batch: Mapping[str, jax.Array]
    ) -> tuple[State, dict]:
        leaves = jax.tree.leaves((state, frozen, dict(batch)))
        given = [leaves[n] for n in self._kept]
        results = self._loaded.execute_sharded(given).disassemble_into_single_device_arrays()
        arrays = [
            jax.make_array_from_single_device_arrays(out.shape, out.sharding, parts)
            for out, parts in zip(self._outputs, results, strict=True)
        ]
        return jax.tree.unflatten(self._tree, arrays)


def save(
    executable: Any,
    config: Any,
    learner: Learner,
    spec: Mapping[str, Any],
    options: Mapping[str, str],
    path: str | Path,
) -> None:
    """Keeps a compiled step. Raises `UserError` where this jax cannot give it away."""
    try:
        payload = executable.runtime_executable().serialize()
        kept = sorted(executable._executable._kept_var_idx)
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
        raise UserError(
            f"--save: jax {jax.__version__} cannot keep this step "
            f"({str(error).splitlines()[0]}); train without train.compiled, which compiles it"
        ) from None
    _, metrics = executable.out_info
    header = {
        "format": FORMAT,
        "identity": identity(config, learner.program, spec, options),
        "kept": kept,
        "metrics": {
            name: [[list(x.shape), np.dtype(x.dtype).name] for x in pair]
            for name, pair in metrics.items()
        },
    }
    header["sha256"] = digest(header, payload)
    try:
        write_atomic(path, json.dumps(header).encode() + b"\n" + payload)
    except OSError as error:
        raise UserError(
            f"--save: {path}: {error.strerror}; name a file that can be written"
        ) from None


def load(
    config: Any,
    learner: Learner,
    spec: Mapping[str, Any],
    options: Mapping[str, str],
    path: str | Path,
) -> tuple[SavedStep | None, str]:
    """(the step, "") of a file; (None, why not, in one line) where the file is of another step."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"train.compiled: {path}: {(error.strerror or 'cannot be read').lower()}; make it by "
            "`jaxlm plan CONFIG --topology ... --save FILE`, or leave it out"
        ) from None
    line, _, payload = data.partition(b"\n")
    try:
        header = json.loads(line)
        saved, written, kind = header["identity"], header["sha256"], header["format"]
    except (ValueError, KeyError, TypeError):
        return None, f"{path} is not a saved step"
    if kind != FORMAT:
        return None, f"{path} has format {kind}, this version reads {FORMAT}"
    if digest(header, payload) != written:
        return None, f"{path} is damaged: its SHA-256 is another"
    own = identity(config, learner.program, spec, options)
    for name, value in own.items():
        if saved.get(name) != value:
            return None, f"{path} was made with another {name}: {_differ(saved.get(name), value)}"
    devices = list(learner.program.mesh.devices.flat)
    from jax._src.lib import xla_client  # PJRT does not take the public list of devices

    try:
        loaded = devices[0].client.deserialize_executable(
            payload, executable_devices=xla_client.DeviceList(tuple(devices))
        )
    except jax.errors.JaxRuntimeError as error:
        return None, f"{path} cannot be loaded here: {str(error).splitlines()[0]}"
    return SavedStep(loaded, learner, header), ""


def identity(
    config: Any, program: Program, spec: Mapping[str, Any], options: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that has to be equal, by name, as plain values."""
    devices = list(program.mesh.devices.flat)
    model = config.model.computing_on(devices[0].platform)
    return {
        "version of jax": jax.__version__,
        "versions": {name: package_version(name) for name in PACKAGES},
        "environment": {name: os.environ.get(name, "") for name in VARIABLES},
        "code of jaxlm": code_sha256(),
        "code of other parts": code_of_other_parts(config),
        "config": _plain(configs.traced_values(config.replace(model=model))),
        "batch": {name: [list(x.shape), np.dtype(x.dtype).name] for name, x in spec.items()},
        "compiler options": dict(options),
        "mesh": {str(axis): size for axis, size in program.mesh.shape.items()},
        "kind of device": devices[0].device_kind,
        "order of devices": [_place(d) for d in devices],
    }


def code_of_other_parts(config: Config) -> dict[str, str]:
    """{module: SHA-256 of its file} of the parts that are not in this package."""
    modules = {type(part).__module__ for _, part in configs.configs_in(config)}
    paths = {name: getattr(sys.modules[name], "__file__", None) for name in modules}
    return {
        name: hashlib.sha256(Path(path).read_bytes()).hexdigest()
        for name, path in sorted(paths.items())
        if path is not None and name.partition(".")[0] != "jaxlm"
    }


def digest(header: Mapping[str, Any], payload: bytes) -> str:
    """SHA-256 over a file's content, without the SHA-256 itself."""
    rest = {name: value for name, value in header.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode() + payload).hexdigest()


def _place(device: Any) -> list[int]:
    """The place of a device in its topology, on any host."""
    coords = getattr(device, "coords", None)
    if coords is None:
        return [device.id]
    core = getattr(device, "core_on_chip", 0)
    return [*coords, core, int(getattr(device, "slice_index", 0) or 0)]


def package_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _plain(value: Any) -> Any:
    """The value as JSON returns it, so that equal values compare equal."""
    return json.loads(json.dumps(value))


def _differ(saved: Any, own: Any) -> str:
    """The first place where two plain values differ, and both."""
    path: list[str] = []
    while True:
        shown = f"{saved!r:.60}", f"{own!r:.60}"
        if isinstance(saved, list) and isinstance(own, list) and shown[0] == shown[1]:
            saved, own = (dict(enumerate(values)) for values in (saved, own))  # they differ later
        if not (isinstance(saved, dict) and isinstance(own, dict)):
            return " ".join([*([".".join(path)] if path else []), f"{shown[0]} -> {shown[1]}"])
        name = next(n for n in {**own, **saved} if saved.get(n) != own.get(n))
        path.append(str(name))
        saved, own = saved.get(name), own.get(name)
