"""A golden decoder as one of our models, and how far its numbers are from the stored ones.

    python -m tests.models.parity            # the table of all decoders
    python -m tests.models.parity 'qwen*'

Errors are relative to the largest value: of all logits, of a layer's hidden states (or 1, where all
are smaller), of a tensor's gradient.
"""

from __future__ import annotations

import fnmatch
import functools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlm.config import UserError
from jaxlm.kernels.cross_entropy import cross_entropy
from jaxlm.mesh import MeshConfig, param_shardings
from jaxlm.models.families import families, family_of_architecture
from jaxlm.models.families.base import Family
from jaxlm.models.families.table import locate, read_params, write_tensors
from jaxlm.nn.params import split
from jaxlm.tree import flatten, unflatten
from tests.golden_families import CASES, Case, gradient_sketch, load_case, sketch

Arrays = dict[str, Any]


@functools.cache
def golden(name: str) -> Case:
    return load_case(name)


def architecture_of(name: str) -> str:
    return golden(name).config["architectures"][0]


def decoders() -> list[str]:
    """The cases that are a decoder's, by what the fixture holds, and have a family here."""
    known = {name for family in families() for name in family.architectures}
    holds = [name for name in CASES if {"positions", "prompts"} <= golden(name).arrays.keys()]
    return [name for name in holds if architecture_of(name) in known]


class Model(NamedTuple):
    """A case as one of our models, in float32; with the plain attention, which compiles sooner."""

    case: Case
    family: Family
    config: Any
    graphdef: Any
    axes: Arrays  # logical axes, by path as all the others
    shapes: dict[str, tuple[int, ...]]
    pieces: dict[str, list]
    params: dict[str, np.ndarray]


@functools.cache
def model_of(name: str) -> Model:
    case = golden(name)
    family = family_of_architecture(architecture_of(name))
    config: Any = family.from_hf(case.config)
    config = config.replace(dtype="float32", attention=config.attention.replace(impl="reference"))
    graphdef, abstract, axes = abstract_of(config)
    shapes = {path: leaf.shape for path, leaf in abstract.items()}
    pieces = locate(family.tensors(config), shapes)
    params = read_params(pieces, shapes, case.weights().__getitem__)
    return Model(case, family, config, graphdef, axes, shapes, pieces, params)


def abstract_of(config: Any) -> tuple[Any, Arrays, Arrays]:
    """graphdef, shapes and logical axes of a config; nothing is allocated."""
    module = nnx.eval_shape(lambda: config.build(config.vocab_size, rngs=nnx.Rngs(0)))
    graphdef, abstract, axes = split(module)
    return graphdef, flatten(abstract), flatten(axes)


@functools.cache
def batch_of(name: str) -> Arrays:
    """The stored rows: each token of a document has the next one as its target, but the last."""
    a = golden(name).arrays
    segment_ids = a["segment_ids"]
    targets = np.roll(a["tokens"], -1, axis=1)
    weights = (segment_ids == np.roll(segment_ids, -1, axis=1)) & (segment_ids > 0)
    weights[:, -1] = False
    rows = {key: a[key] for key in ("tokens", "positions", "segment_ids")}
    probe = np.zeros((*targets.shape, model_of(name).config.hidden_size), np.float32)
    return {**rows, "targets": targets, "weights": weights.astype(np.float32), "probe": probe}


def results_of(graphdef: Any, name: str) -> Any:
    """(params, batch) -> ((loss, results), gradients).

    `probe` [B, T, D] is what the loss has more of the last hidden states.
    """
    normed, vocab_size = (
        golden(name).arrays["hidden_last"] == "normed",
        model_of(name).config.vocab_size,
    )

    def loss(params: Arrays, batch: Arrays) -> Any:
        model = nnx.merge(graphdef, unflatten(params))
        rows = {key: batch[key] for key in ("tokens", "positions", "segment_ids")}
        out = model(**rows, with_states=True)
        logits = model.logits(out.hidden)[..., :vocab_size]
        if model.vocab_size == vocab_size:
            nll = cross_entropy(model.head_input(out.hidden), model.head(), batch["targets"]).loss
        else:  # rows of the table that were added so that a mesh divides them
            chosen = jnp.take_along_axis(logits, batch["targets"][..., None], axis=-1)[..., 0]
            nll = jax.nn.logsumexp(logits, axis=-1) - chosen
        total = (nll * batch["weights"]).sum() / jnp.maximum(batch["weights"].sum(), 1)
        total += (out.hidden * batch["probe"]).sum()
        hidden = out.states.at[-1].set(out.hidden) if normed else out.states
        return total, {"logits": logits, "hidden": hidden}

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@functools.cache
def forward(name: str) -> Any:
    """`results_of` the case itself: compiled once."""
    return results_of(model_of(name).graphdef, name)


@functools.cache
def computed(name: str) -> Any:
    return jax.device_get(forward(name)(model_of(name).params, batch_of(name)))


def errors(name: str) -> dict[str, float]:
    """The largest error of each kind."""
    return errors_from(golden(name), model_of(name).pieces, computed(name))


def errors_from(case: Case, pieces: Any, found: Any) -> dict[str, float]:
    """How far what `results_of` gave is from what a case stores; no gradient may be missing."""
    ((loss, results), gradients), a = found, case.arrays
    real = a["segment_ids"][..., None] > 0
    logits, hidden = results["logits"] * real, results["hidden"] * real
    layers = zip(sketch(hidden, 4, case.seed), a["hidden_sketch"], strict=True)
    ours, theirs = dict(write_tensors(pieces, gradients.__getitem__)), case.gradients()
    assert ours.keys() == theirs.keys()
    return {
        "logits": max(
            _error(sketch(logits, 8, case.seed), a["logits_sketch"]),
            _error(logits[:, ::16], a["logits"]),
        ),
        "hidden": max(_error(*layer) for layer in layers),
        "loss": abs(float(loss) - float(a["loss"])),
        "gradients": max(
            _error(gradient_sketch(key, gradient, case.seed), theirs[key], least=1e-3)
            for key, gradient in ours.items()
        ),
    }


def first_that_divides(meshes: Sequence[MeshConfig], abstract: Any, axes: Any) -> Any:
    """(mesh, shardings of the parameters) of the first mesh that divides all sizes."""
    for config in meshes:
        mesh = config.build()
        try:
            return mesh, param_shardings(abstract, axes, mesh)
        except UserError:
            continue
    raise AssertionError("no mesh divides these sizes")


def _error(found: Any, want: np.ndarray, least: float = 1.0) -> float:
    return float(np.abs(found - want).max() / max(least, np.abs(want).max()))


def main(pattern: str = "*") -> None:
    kinds = ("logits", "hidden", "loss", "gradients")
    print(f"{'family':14}{'case':24}" + "".join(f"{kind:>11}" for kind in kinds))
    for name in fnmatch.filter(decoders(), pattern):
        row = errors(name)
        numbers = "".join(f"{row[kind]:11.1e}" for kind in kinds)
        print(f"{model_of(name).family.name:14}{name:24}{numbers}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
