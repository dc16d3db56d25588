"""A golden model as one of ours, and how far its numbers are from the stored ones.

    python -m tests.models.parity            # the table of all families
    python -m tests.models.parity 'qwen*'

What is asked of a case is read off its fixture: prompts make it a decoder, a mask an encoder,
tokens of an encoder a pair of stacks, context lengths a text that sees all of itself.

Errors are relative to the largest value: of all logits, of a layer's hidden states (or 1, where all
are smaller), of a tensor's gradient.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxlm.core.tree import flatten, unflatten
from jaxlm.kernels.cross_entropy import cross_entropy
from jaxlm.mesh import BATCH_AXES, MeshConfig, param_shardings
from jaxlm.models.families import families, family_of_architecture
from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.table import locate, read_params, write_tensors
from jaxlm.nn.params import split
from tests.models import golden_seq2seq
from tests.models.golden_families import CASES, Case, gradient_sketch, load_case, sketch
from tests.nn import golden_rnn
from tests.nn.golden_nn import assert_close

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
    config = family.completed(family.from_hf(case.config), case.tensors)
    config = with_attention(in_float32(config), "reference")
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
    return jax.jit(jax.value_and_grad(loss_of(graphdef, name), has_aux=True))


def loss_of(graphdef: Any, name: str) -> Any:
    """(params, batch) -> (loss, results)."""
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

    return loss


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


def errors_of_values(name: str) -> dict[str, float]:
    """Those of logits, hidden states and the loss, without the time to compile gradients."""
    values = jax.jit(loss_of(model_of(name).graphdef, name))
    found = jax.device_get(values(model_of(name).params, batch_of(name)))
    return errors_from_values(golden(name), found)


def with_slow(names: Sequence[str]) -> list[Any]:
    """Cases for `parametrize`: all but the first of each architecture are slow.

    Their layers' gradients are shown by the first; their values are compared without them.
    """
    first = firsts(names)
    return [name if name in first else pytest.param(name, marks=pytest.mark.slow) for name in names]


def errors_from(case: Case, pieces: Any, found: Any) -> dict[str, float]:
    """How far what `results_of` gave is from what a case stores; no gradient may be missing."""
    values, gradients = found
    ours, theirs = dict(write_tensors(pieces, gradients.__getitem__)), case.gradients()
    assert ours.keys() == theirs.keys()
    errors = (
        _error(gradient_sketch(key, gradient, case.seed), theirs[key], least=1e-3)
        for key, gradient in ours.items()
    )
    return {**errors_from_values(case, values), "gradients": _largest(*errors)}


def errors_from_values(case: Case, found: Any) -> dict[str, float]:
    """How far what `loss_of` gave is from what a case stores."""
    (loss, results), a = found, case.arrays
    real = real_of(case.name)
    logits = results["logits"] * real
    layers = [*zip(sketch(results["hidden"] * real, 4, case.seed), a["hidden_sketch"], strict=True)]
    if "encoder_hidden_sketch" in a:
        hidden = sketch(results["encoder_hidden"] * a["encoder_mask"][..., None], 4, case.seed)
        layers += zip(hidden, a["encoder_hidden_sketch"], strict=True)
    of_rows = [_error(results[key], a[key]) for key in ("pooled", "nsp") if key in a]
    return {
        "logits": _largest(
            _error(sketch(logits, 8, case.seed), a["logits_sketch"]),
            _error(logits[:, ::16], a["logits"]),
            *of_rows,
        ),
        "hidden": _largest(*(_error(*layer) for layer in layers)),
        "loss": abs(float(loss) - float(a["loss"])),
    }


def live_errors(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The same against what is computed now, where torch and transformers are."""
    for needed in ("torch", "safetensors"):
        pytest.importorskip(needed)
    transformers = pytest.importorskip("transformers")
    tool, case = importlib.import_module("tools.make_golden_families"), golden(name)
    monkeypatch.setattr(tool, "generate", lambda *_: {})
    compute = {
        "prompts": tool.decoder_arrays,
        "encoder_tokens": tool.encoder_decoder_arrays,
        "context_lengths": tool.infiller_arrays,
        "attention_mask": tool.encoder_arrays,
    }
    kind = next(key for key in compute if key in case.arrays)
    architecture = architecture_of(name)
    cls = tool.PLAIN.get(architecture) or getattr(transformers, architecture)
    row = {k: v for k, v in case.published.items() if k not in ("architectures", "model_type")}
    arrays = compute[kind](tool.load(cls, row, case.weights()), case.seed)
    live = dataclasses.replace(case, arrays=arrays)
    return errors_from(live, model_of(name).pieces, computed(name))


def assert_small(found: dict[str, float]) -> None:
    """Within what is promised of every family."""
    assert found["logits"] < 1e-4
    assert found["hidden"] < 1e-5
    assert found.get("loss", 0) < 1e-4
    assert found.get("gradients", 0) < 1e-4


def assert_same(found: Any, name: str) -> None:
    """Loss, results and gradients are those of the case's own program, up to rounding."""
    ((loss, results), gradients), ((want_loss, want), want_gradients) = found, computed(name)
    assert float(loss) == pytest.approx(float(want_loss), rel=1e-5)
    for key, array in want.items():
        real = 1 if key in ("pooled", "nsp", "encoder_hidden") else real_of(name)
        assert_close(results[key] * real, array * real, 2e-5)
    for path, gradient in want_gradients.items():
        largest = np.abs(gradient).max()
        # A bias of keys, if nothing turns them, adds the same to all scores of a query: its
        # gradient is 0, and what is left of it is rounding.
        least = 1e-7 if largest < 1e-7 else 1e-5 * largest
        np.testing.assert_allclose(gradients[path], gradient, rtol=0, atol=least, err_msg=path)


def spread(name: str, mesh_config: MeshConfig, change: Callable[[Any], Any]) -> Any:
    """What the case computes on a mesh, its stacks changed; its vocabulary is filled up."""
    model, batch = model_of(name), batch_of(name)
    vocab_size = model.config.vocab_size + model.config.vocab_size % 2
    config = in_stacks(model.config, change).replace(vocab_size=vocab_size)
    graphdef, abstract, axes = abstract_of(config)
    mesh = mesh_config.build()
    shardings = flatten(param_shardings(unflatten(abstract), unflatten(axes), mesh))
    rows = len(batch["tokens"])
    copies = math.lcm(rows, math.prod(mesh.shape[axis] for axis in BATCH_AXES)) // rows
    with jax.set_mesh(mesh):
        params = {
            path: jax.device_put(_filled(array, abstract[path].shape), shardings[path])
            for path, array in model.params.items()
        }
        placed = jax.tree.map(
            lambda x: jax.device_put(
                np.concatenate([x] * copies), NamedSharding(mesh, PartitionSpec(BATCH_AXES))
            ),
            batch,
        )
        (loss, results), gradients = jax.device_get(results_of(graphdef, name)(params, placed))
    results = {  # states are [L, B, T, D]
        key: x.take(range(rows), axis=1 if key.endswith("hidden") else 0)
        for key, x in results.items()
    }
    for path, array in model.params.items():
        inside = tuple(slice(size) for size in array.shape)
        assert gradients[path].sum() == pytest.approx(gradients[path][inside].sum(), abs=1e-6)
        gradients[path] = gradients[path][inside]
    return (loss, results), gradients


def _filled(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array with zeros up to a shape."""
    sizes = zip(array.shape, shape, strict=True)
    return np.pad(array, [(0, wide - size) for size, wide in sizes])


def _largest(*errors: float) -> float:
    """Not Python's max, which passes over NaN."""
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
