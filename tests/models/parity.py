"""A golden model as one of ours, and how far its numbers are from the stored ones.

    python -m tests.models.parity            # the table of all families
    python -m tests.models.parity 'qwen*'

What is asked of a case is read off its fixture: prompts make it a decoder, a mask an encoder,
tokens of an encoder a pair of stacks, context lengths a text that sees all of itself.

Errors are relative to the largest value: of all logits, of a layer's hidden states (or 1, where all
are smaller), of a tensor's gradient.
"""

from __future__ import annotations

import fnmatch
import functools
import sys
from collections.abc import Callable, Sequence
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
from tests import golden_rnn, golden_seq2seq
from tests.golden_families import CASES, Case, gradient_sketch, load_case, sketch

Arrays = dict[str, Any]


@functools.cache
def golden(name: str) -> Case:
    return load_case(name)


def architecture_of(name: str) -> str:
    return golden(name).config["architectures"][0]


def known() -> list[str]:
    """The cases whose architecture has a family here."""
    architectures = {name for family in families() for name in family.architectures}
    return [name for name in CASES if architecture_of(name) in architectures]


def having(*keys: str) -> list[str]:
    """Those of them whose fixtures hold one of these arrays."""
    return [name for name in known() if golden(name).arrays.keys() & set(keys)]


def decoders() -> list[str]:
    return having("prompts")


def firsts(names: Sequence[str]) -> list[str]:
    """One case of each architecture, for what its other cases would show again."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(architecture_of(name), name)
    return list(first.values())


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
    config = with_attention(in_float32(family.from_hf(case.config)), "reference")
    graphdef, abstract, axes = abstract_of(config)
    shapes = {path: leaf.shape for path, leaf in abstract.items()}
    pieces = locate(family.tensors(config), shapes)
    params = read_params(pieces, shapes, case.weights().__getitem__)
    return Model(case, family, config, graphdef, axes, shapes, pieces, params)


def in_stacks(config: Any, change: Callable[[Any], Any]) -> Any:
    """A config with both of its stacks, or its one, changed."""
    config = change(config)
    return config if config.encoder is None else config.replace(encoder=change(config.encoder))


def in_float32(config: Any) -> Any:
    return in_stacks(config, lambda stack: stack.replace(dtype="float32"))


def with_attention(config: Any, impl: str) -> Any:
    return in_stacks(
        config, lambda stack: stack.replace(attention=stack.attention.replace(impl=impl))
    )


def abstract_of(config: Any) -> tuple[Any, Arrays, Arrays]:
    """graphdef, shapes and logical axes of a config; nothing is allocated."""
    module = nnx.eval_shape(lambda: config.build(config.vocab_size, rngs=nnx.Rngs(0)))
    graphdef, abstract, axes = split(module)
    return graphdef, flatten(abstract), flatten(axes)


# ------------------------------------------------------------------------------------ what it reads


@functools.cache
def batch_of(name: str) -> Arrays:
    """The stored rows: what the model is called with, and the weight of each target.

    tokens, targets, weights [B, T]; how {positions, segment_ids, ...}; source, relations where
    there are any; probe [B, T, D]: what the loss has more of the last hidden states.
    """
    a = golden(name).arrays
    batch: Arrays = {"tokens": a["tokens"]}
    if "prompts" in a:  # each token of a document has the next one as its target, but the last
        ids = a["segment_ids"]
        weights = (ids == np.roll(ids, -1, axis=1)) & (ids > 0)
        weights[:, -1] = False
        batch |= {"targets": np.roll(a["tokens"], -1, axis=1), "weights": weights}
        batch["how"] = {"positions": a["positions"], "segment_ids": ids}
    elif "context_lengths" in a:
        index = np.arange(a["tokens"].shape[1])
        rows = in_order(index < a["lengths"][:, None])
        places = np.moveaxis(a["position_ids"], 1, -1)
        batch["how"] = {**rows, "places": places, "prefix": index < a["context_lengths"][:, None]}
        batch |= {"targets": a["targets"], "weights": a["loss_mask"]}
    else:
        real = a.get("attention_mask", np.ones_like(a["tokens"]))
        batch |= {"how": in_order(real), "weights": real, "targets": a["targets"]}
    if "token_type_ids" in a:
        batch["how"]["token_types"] = a["token_type_ids"]
    if "encoder_tokens" in a:
        batch["source"] = {"tokens": a["encoder_tokens"], **in_order(a["encoder_mask"])}
    if "nsp_targets" in a:
        batch["relations"] = a["nsp_targets"]
    batch["weights"] = batch["weights"].astype(np.float32)
    size = model_of(name).config.hidden_size
    return {**batch, "probe": np.zeros((*a["tokens"].shape, size), np.float32)}


def in_order(real: np.ndarray) -> Arrays:
    """Rows that are one text each, where `real` is 1, and padding."""
    positions = np.broadcast_to(np.arange(real.shape[1], dtype=np.int32), real.shape)
    return {"positions": positions, "segment_ids": real.astype(np.int32)}


def real_of(name: str) -> np.ndarray:
    """Where there is a token [B, T, 1]."""
    return batch_of(name)["how"]["segment_ids"][..., None] > 0


# --------------------------------------------------------------------------------- what it computes


def results_of(graphdef: Any, name: str) -> Any:
    """(params, batch) -> ((loss, results), gradients)."""
    vocab_size, normed = model_of(name).config.vocab_size, golden(name).arrays["hidden_last"]

    def with_last(states: jax.Array, hidden: jax.Array) -> jax.Array:
        return states.at[-1].set(hidden) if normed == "normed" else states

    def loss(params: Arrays, batch: Arrays) -> Any:
        model, results, encoded = nnx.merge(graphdef, unflatten(params)), {}, None
        if "source" in batch:
            encoded, states = model.encode(**batch["source"], with_states=True)
            results["encoder_hidden"] = with_last(states, encoded.hidden)
        out = model(batch["tokens"], **batch["how"], encoded=encoded, with_states=True)
        logits = model.logits(out.hidden)[..., :vocab_size]
        results |= {"logits": logits, "hidden": with_last(out.states, out.hidden)}
        if model.vocab_size == vocab_size:
            each = cross_entropy(model.head_input(out.hidden), model.head(), batch["targets"]).loss
        else:  # rows of the table that were added so that a mesh divides them
            each = nll(logits, batch["targets"])
        total = (each * batch["weights"]).sum() / jnp.maximum(batch["weights"].sum(), 1)
        if model.config.head.pooler:
            results["pooled"] = model.pool(out.hidden)
        if "relations" in batch:
            results["nsp"] = model.relation(results["pooled"])
            total += nll(results["nsp"], batch["relations"]).mean()
        return total + (out.hidden * batch["probe"]).sum(), results

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def nll(logits: jax.Array, targets: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


@functools.cache
def forward(name: str) -> Any:
    """`results_of` the case itself: compiled once."""
    return results_of(model_of(name).graphdef, name)


@functools.cache
def computed(name: str) -> Any:
    return jax.device_get(forward(name)(model_of(name).params, batch_of(name)))


def again(name: str, **changes: Any) -> Any:
    """What the case's own program gives for a batch that differs."""
    return jax.device_get(forward(name)(model_of(name).params, {**batch_of(name), **changes}))


def errors(name: str) -> dict[str, float]:
    """The largest error of each kind."""
    return errors_from(golden(name), model_of(name).pieces, computed(name))


def errors_from(case: Case, pieces: Any, found: Any) -> dict[str, float]:
    """How far what `results_of` gave is from what a case stores; no gradient may be missing."""
    ((loss, results), gradients), a = found, case.arrays
    real = real_of(case.name)
    logits = results["logits"] * real
    layers = [*zip(sketch(results["hidden"] * real, 4, case.seed), a["hidden_sketch"], strict=True)]
    if "encoder_hidden_sketch" in a:
        hidden = sketch(results["encoder_hidden"] * a["encoder_mask"][..., None], 4, case.seed)
        layers += zip(hidden, a["encoder_hidden_sketch"], strict=True)
    ours, theirs = dict(write_tensors(pieces, gradients.__getitem__)), case.gradients()
    assert ours.keys() == theirs.keys()
    of_rows = [_error(results[key], a[key]) for key in ("pooled", "nsp") if key in a]
    return {
        "logits": _largest(
            _error(sketch(logits, 8, case.seed), a["logits_sketch"]),
            _error(logits[:, ::16], a["logits"]),
            *of_rows,
        ),
        "hidden": _largest(*(_error(*layer) for layer in layers)),
        "loss": abs(float(loss) - float(a["loss"])),
        "gradients": _largest(
            *(
                _error(gradient_sketch(key, gradient, case.seed), theirs[key], least=1e-3)
                for key, gradient in ours.items()
            )
        ),
    }


def assert_small(found: dict[str, float]) -> None:
    """Within what is promised of every family."""
    assert found["logits"] < 1e-4
    assert found["hidden"] < 1e-5
    assert found.get("loss", 0) < 1e-4
    assert found["gradients"] < 1e-4


def first_that_divides(meshes: Sequence[MeshConfig], abstract: Any, axes: Any) -> Any:
    """(mesh, shardings of the parameters) of the first mesh that divides all sizes."""
    for config in meshes:
        mesh = config.build()
        try:
            return mesh, param_shardings(abstract, axes, mesh)
        except UserError:
            continue
    raise AssertionError("no mesh divides these sizes")


def _largest(*errors: float) -> float:
    """Not Python's max, which passes over what is no number."""
    return float(np.max(errors))


def _error(found: Any, want: np.ndarray, least: float = 1.0) -> float:
    return float(np.abs(found - want).max() / max(least, np.abs(want).max()))


def main(pattern: str = "*") -> None:
    kinds = ("logits", "hidden", "loss", "gradients")
    print(f"{'family':14}{'case':24}" + "".join(f"{kind:>11}" for kind in kinds))

    def show(family: str, case: str, row: dict[str, float]) -> None:
        numbers = "".join(f"{row[k]:11.1e}" if k in row else f"{'':11}" for k in kinds)
        print(f"{family:14}{case:24}{numbers}", flush=True)

    for name in fnmatch.filter(known(), pattern):
        show(model_of(name).family.name, name, errors(name))
    for module in (golden_rnn, golden_seq2seq):
        for name in fnmatch.filter(module.CASES, pattern):
            show(module.FAMILY, name, module.errors(name))


if __name__ == "__main__":
    main(*sys.argv[1:])
