"""Tiny runs that several test modules train: the smoke configs, and batches of made-up tokens."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlm.core.config import Resolved
from jaxlm.core.tree import flatten, unflatten
from jaxlm.data.store.prepared import Prepared
from jaxlm.mesh import MeshConfig, to_global_whole
from jaxlm.run import RunConfig, load_run
from jaxlm.training.learner import GradientLearner
from jaxlm.training.program import Program, make_program
from jaxlm.training.session import prepare_data, resolve

SMOKE = Path(__file__).parents[1] / "configs" / "smoke"
MODELS = ("transformer", "lstm")
ONE = MeshConfig(data=1, num_devices=1)
# Settings of runs of four steps that are cut in the middle and resumed.
FOUR_STEPS = (
    "train.steps=4",
    "sample.prompts=[]",
    "model.dropout=0",
    "eval.every_steps=null",
    "eval.at_end=false",
    "checkpoint.every_steps=2",
    "checkpoint.keep_last=3",
    "logging.tensorboard=false",
)
FOUR_SMALL_STEPS = (
    *FOUR_STEPS,
    "mesh={data: 1, num_devices: 1}",
    "train.batch_size=4",
    "eval.every_steps=2",
    "eval.at_end=true",
    "train.ledger=false",
)


@cache
def cache_dir() -> str:
    """One token store for all tests of a process; it goes when the process does."""
    folder = tempfile.TemporaryDirectory(prefix="jaxlm-tests-")
    _KEPT.append(folder)
    return folder.name


_KEPT: list[tempfile.TemporaryDirectory] = []


def load(name: str, *overrides: str) -> Resolved[RunConfig]:
    """A smoke config; its 264 ids can be split over 2, 4 or 8 devices."""
    shared = [f"cache_dir={cache_dir()}", "model.vocab_size=264"]
    return load_run(SMOKE / f"{name}.yaml", [*shared, *overrides])


def prepared(config: RunConfig) -> tuple[RunConfig, Prepared]:
    """The config with what its data says filled in, and the data."""
    data = prepare_data(config.replace(run_dir=None), lambda _: None)
    return resolve(config, data), data


def program(config: RunConfig, mesh: MeshConfig = ONE, **changes: Any) -> Program:
    """The program of a config; `changes` are to `make_program`'s arguments."""
    arguments: dict[str, Any] = {
        "model": config.model,
        "objective": config.objective,
        "seed": config.seed,
        "batch_size": config.train.batch_size,
        "accumulation": config.train.accumulation,
    }
    how = {"zero": mesh.zero, "stage_repeats": mesh.stage_repeats}
    return make_program(mesh=mesh.build(), **how, **(arguments | changes))


@cache
def _drawn(objective: Any, model: Any, adapter: Any, seed: int) -> dict[str, Any]:
    """The parameters of a program, on the host: drawn once, on one device."""
    parts = {"model": model, "objective": objective, "adapter": adapter}
    one = make_program(mesh=ONE.build(), **parts, seed=seed)
    return jax.device_get(jax.jit(one.init_params)())


def params_of(program: Program) -> dict[str, Any]:
    """Its parameters at the start, without compiling what draws them for every mesh."""
    drawn = _drawn(program.objective, program.model, program.adapter, program.seed)
    return jax.device_put(drawn, program.param_shardings)


def near_fresh(shapes: dict[str, Any], std: float = 0.1) -> dict[str, Any]:
    """Parameters off their fresh values: scales are 1 +- 0.1, all else is 0 +- `std`.

    Numpy draws them, so that nothing is compiled.
    """
    rng = np.random.default_rng(0)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        mean, deviation = (1, 0.1) if path.endswith("scale") else (0, std)
        return rng.normal(mean, deviation, shape).astype(np.float32)

    return unflatten({path: draw(path, x.shape) for path, x in flatten(shapes).items()})


def learner(config: RunConfig, mesh: MeshConfig = ONE, **changes: Any) -> GradientLearner:
    """The learner of a config; `changes` are to `make_program`'s arguments, or its optimizer."""
    optimizer = changes.pop("optimizer", config.optimizer)
    return GradientLearner(program(config, mesh, **changes), optimizer, config.train.steps or 1)


def state_of(learner: GradientLearner) -> dict[str, Any]:
    """What `learner.create()` gives."""
    return learner.create(params_of(learner.program))


def spec_of(batch: dict[str, jax.Array]) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        for name, x in batch.items()
    }


def ragged_batch(seed: int, rows: int = 8, length: int = 16, vocab: int = 264) -> dict[str, Any]:
    """Rows of 1 to 3 documents and padding, each row with another number of weighted targets."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab, (rows, length + 1), dtype=np.int32)
    segments = np.zeros((rows, length + 1), np.int32)
    positions = np.zeros((rows, length + 1), np.int32)
    for row in range(rows):
        start = 0
        for document in range(rng.integers(1, 4)):
            size = int(rng.integers(1, 2 + max(0, length - start) // (1 + row % 3)))
            segments[row, start : start + size] = document + 1
            positions[row, start : start + size] = np.arange(size)
            start += size
    weights = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "loss_weights": weights.astype(np.float32),
        "segment_ids": segments[:, :-1],
        "positions": positions[:, :-1],
        "num_bytes": weights.sum(1, dtype=np.int32),
        "num_chars": weights.sum(1, dtype=np.int32),
    }


def on_mesh(batch: dict[str, Any], program: Program | GradientLearner) -> dict[str, jax.Array]:
    return to_global_whole(batch, program.mesh)
