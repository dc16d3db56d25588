"""The stacks of a Transformer, as the analytic model sees them: a decoder or an encoder, or both.

With an encoder, each layer of the decoder attends to its output: the maps of keys and values see
the source's tokens, once for every layer; those of queries and outputs see the target's. The
tensors of cross-attention have the names of self-attention's, except its output, which has no name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxlm.models.blocks import StackConfig
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.flops import keys_met
from jaxlm.nn.moe import MoEConfig
from jaxlm.nn.stack import Remat
from jaxlm.plan.closed_form.stacks import (
    Array,
    Layers,
    LinearMap,
    Look,
    Rows,
    Sizes,
    Stack,
    describes,
)

# The last part of a linear map's path, and the tensor it makes (see `AttentionConfig.tensors`).
MAKES = {
    "query": "query",
    "query_down": "query",
    "key": "key",
    "value": "value",
    "down_latent": "key",
    "up_latent": "value",
    "rope_key": "key",
    "out": "attention_out",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_out",
    "router": "router",
}
# If heads are split, sublayer outputs are split along the length. The bytes are the same as with
# the width split by tensor, which an axis of heads expresses.
OF_STREAM = "act_heads"
LOOKS = ("query", "key", "value", "attention")
CROSS = "cross"  # the module of a layer that looks at the source


@describes(TransformerConfig)
def transformer(model: TransformerConfig, params: Sequence[Array], rows: Rows) -> tuple[Stack, ...]:
    own = _stack("model", model, "", params, rows)
    if model.encoder is None:
        return (own,)
    assert rows.source is not None, "an encoder reads a source"
    read = Rows(length=rows.source)
    return own, _stack("model.encoder", model.encoder, "encoder/", params, read)


def _stack(
    path: str, model: StackConfig, prefix: str, params: Sequence[Array], rows: Rows
) -> Stack:
    """The stack whose parameters' paths begin with `prefix`."""
    own = [p for p in params if p.path.startswith(f"{prefix}layers")]
    layers = _layers(own, prefix, model, rows)
    looks = [_look(model, layers[0].tensors, rows)]
    for tensors in layers[0].others:
        assert rows.source is not None
        looks.append(_cross(looks[0], tensors, rows.source))
    return Stack(
        path=path,
        remat=Remat(model.remat, model.saved, model.offloaded),
        length=rows.length,
        hidden=model.hidden_size,
        layers=layers,
        looks=tuple(looks),
        norm_follows=model.norm_placement != "pre",
        period=model.period,
    )


def _look(model: StackConfig, tensors: Any, rows: Rows) -> Look:
    attention: Any = model.attention
    windows, count, length = attention.windows, model.num_layers, rows.length
    is_causal = attention.is_causal and not rows.prefix
    keys, all_keys = (
        sum(keys_met(length, windows[i % len(windows)], c) for i in range(count))
        for c in (is_causal, False)
    )
    return Look(
        layers=count,
        keys=keys,
        all_keys=all_keys,
        keys_length=length,
        score_flops=attention.score_flops(model.hidden_size),
        num_heads=attention.num_heads,
        tensors={name: tensors[name] for name in LOOKS if name in tensors},
        itemsize=2 if model.dtype == "bfloat16" else 4,
        prefix=rows.prefix,
        context=attention.context,
        asked={
            "impl": attention.impl,
            "is_causal": attention.is_causal,
            "window": any(window is not None for window in windows),
            "bias": model.position[0].has_bias,
            "dropout": bool(attention.dropout),
            "softcap": attention.softcap is not None,
            "dtype": model.dtype,
        },
    )


def _cross(own: Look, tensors: Mapping[str, Sizes], source: int) -> Look:
    """The cross-attention of a stack whose self-attention is `own`."""
    return replace(
        own,
        keys=float(own.layers * source),
        all_keys=float(own.layers * source),
        keys_length=source,
        tensors={name: tensors[name] for name in LOOKS if name in tensors},
        prefix=False,
        same_rows=False,
        asked={**own.asked} | {"impl": "auto", "is_causal": False, "window": False, "bias": False},
    )


def _layers(
    params: Sequence[Array], prefix: str, model: StackConfig, rows: Rows
) -> tuple[Layers, ...]:
    run = lambda p: p.path.removeprefix(prefix).split("/")[0]  # noqa: E731
    found = []
    for name in sorted({run(p) for p in params}):
        of_run = [p for p in params if run(p) == name]
        count = of_run[0].shape[0]
        first = int(name.partition("_")[2] or 0)
        ffn: Any = model.ffn_of(first)
        experts = ffn if isinstance(ffn, MoEConfig) else None
        start = f"{prefix}{name}/"
        maps = [m for p in of_run if (m := _map(p, start, count, experts, rows)) is not None]
        cross = [m for m in maps if m.array.path.startswith(f"{start}{CROSS}/")]
        tensors = _tensors([m for m in maps if m not in cross], model)
        others = [_cross_tensors(cross, rows, model)] if cross else []
        found.append(Layers(count, tuple(maps), tensors, experts, others))
    return tuple(found)


def _map(
    array: Array, start: str, layers: int, experts: MoEConfig | None, rows: Rows
) -> LinearMap | None:
    words = array.path.removeprefix(start).split("/")
    if words[-1] != "kernel":
        return None
    name, length = words[-2], rows.length
    if words[0] in ("attention", CROSS):
        name = {"down": "down_latent", "up": "up_latent"}.get(name, name)
    dims = list(zip(array.axes, array.shape, strict=True))[1:]
    share = 1.0
    if dims[0][0] == "experts" and experts is not None:
        share = experts.experts_per_token / experts.num_experts
        dims = dims[1:]
    inner = {"out": 2}.get(name, 1)
    outputs = tuple(_as_activation(d) for d in dims[inner:])
    inputs = tuple(_as_activation(d) for d in dims[:inner])
    makes = MAKES.get(name, name)
    if words[0] == CROSS:
        makes = "cross_out" if makes == "attention_out" else makes
        length = rows.source if makes in ("key", "value") and rows.source else length
    return LinearMap(array, makes, layers, share, outputs, inputs, length)


def _as_activation(dim: tuple[str | None, int]) -> tuple[str | None, int]:
    """A dim of a weight as a dim of an activation, which fsdp does not split."""
    axis, size = dim
    return (None if axis in ("embed", "latent", "hidden") else axis, size)


def _tensors(maps: Sequence[LinearMap], model: StackConfig) -> dict[str, Sizes]:
    """The sizes of a token's tensors, by the names of `Remat`."""
    found: dict[str, Sizes] = {}
    for m in maps:
        if "/shared/" in m.array.path or m.share == 1.0:
            found[m.makes] = m.outputs
    heads: Any = model.attention
    size = heads.score_flops(model.hidden_size) / 4 / heads.num_heads  # mean of query and value
    value = next(
        (m.inputs for m in maps if m.makes == "attention_out"),
        (("heads", heads.num_heads), (None, int(size))),
    )
    found["attention"] = value
    if "value" in found and len(found["value"]) == 2 and heads.projects_latents:
        found["key"] = (("heads", heads.num_heads), (None, heads.nope_dim + heads.rope_dim))
        found["query"] = found["key"]
        found["value"] = (("heads", heads.num_heads), (None, heads.v_dim))
    if "ffn_up" in found:
        found["ffn_hidden"] = found["ffn_up"]
    found["attention_out"] = found["ffn_out"] = ((OF_STREAM, model.hidden_size),)
    return found


def _cross_tensors(cross: Sequence[LinearMap], rows: Rows, model: StackConfig) -> dict[str, Sizes]:
    """The sizes for cross-attention; keys and values of the source, per token of the target."""
    found: dict[str, Sizes] = {}
    for m in cross:
        found[m.makes] = (*m.outputs, (None, m.length / rows.length))
    found["query"] = found["query"][:-1]
    found["attention"] = next(m.inputs for m in cross if m.makes == "cross_out")
    found["cross_out"] = ((OF_STREAM, model.hidden_size),)
    return found
