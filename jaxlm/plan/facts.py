"""What the analytic model knows of a run: arrays with their axes, layers with their tensors.

    facts = facts_of(config)
    facts.params, facts.moments, facts.layers[0].maps

Everything comes from the program's own abstract state (shapes, dtypes, logical axes), from the
config of the model and from the rows that the objective makes; nothing here knows a mesh. Formed
once, then used for every mesh that is tried.

Work, memory and transfers are of the rows' own tokens, which an objective may make more than the
data's (blanks and their starts). Tokens a second, and so MFU, are of the data's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from jaxlm.config import UserError, parse, type_name
from jaxlm.mesh import RULES, MeshConfig
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.flops import keys_met
from jaxlm.nn.moe import MoEConfig
from jaxlm.plan.memory import group_of
from jaxlm.plan.shapes import row_of, seq_len_of, tokens_of
from jaxlm.run import RunConfig
from jaxlm.train.optimizer import state_axes
from jaxlm.train.session import program_of
from jaxlm.tree import flatten

# The last part of a linear map's path, and the tensor it makes (see `AttentionConfig.tensors`).
MAKES = {
    **{"query": "query", "query_down": "query", "key": "key", "value": "value"},
    **{"down_latent": "key", "up_latent": "value", "rope_key": "key", "out": "attention_out"},
    **{"gate": "ffn_gate", "up": "ffn_up", "down": "ffn_out", "router": "router"},
}
# What is added to the stream is split along its length where heads are split: the bytes are as if
# tensor split its width, which an axis of heads says.
OF_STREAM = "act_heads"


@dataclass(frozen=True)
class Array:
    """An array of the state."""

    path: str
    shape: tuple[int, ...]
    itemsize: int
    axes: tuple[str | None, ...]
    on_host: bool = False

    @property
    def group(self) -> str:
        return group_of(self.path)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def part(self, mesh: Mapping[str, int], *, without: Sequence[str] = ()) -> float:
        """The elements that one device holds."""
        return math.prod(
            -(-size // ways(axis, mesh, without))
            for size, axis in zip(self.shape, self.axes, strict=True)
        )


@dataclass(frozen=True)
class LinearMap:
    """A linear map of a layer, or of all layers of a run of equal ones."""

    array: Array
    makes: str  # the tensor that it makes
    layers: int
    share: float  # of its weights that a token meets: experts per token / experts
    outputs: tuple[tuple[str | None, int], ...]  # (axis, size) of what it makes of a token
    inputs: tuple[tuple[str | None, int], ...]

    @property
    def weights(self) -> float:
        """Of one layer."""
        return self.array.size / self.layers


@dataclass(frozen=True)
class Layers:
    """Neighbouring layers of one kind."""

    count: int
    maps: tuple[LinearMap, ...]
    tensors: Mapping[str, tuple[tuple[str | None, int], ...]]  # name -> (axis, size) of a token
    experts: MoEConfig | None


@dataclass(frozen=True)
class Facts:
    """A run, but for its mesh and how much it computes again."""

    config: RunConfig
    params: tuple[Array, ...]
    moments: tuple[Array, ...]
    layers: tuple[Layers, ...]
    seq_len: int  # of a row as it is computed
    data_len: int  # of the data that is in it
    row_bytes: int
    causal: bool  # whether attention leaves out what stands behind
    prefix: bool  # whether all of a row may look at its first tokens
    hidden: int
    vocab: int
    itemsize: int  # of the compute dtype
    dtype: str
    tied: bool
    forward_flops: tuple[float, float]  # a token of data; with attention's causal half, with all
    score_flops: float  # a token and a key that it meets, of one layer
    keys: float  # that a token meets, summed over the layers


def facts_of(config: RunConfig) -> Facts:
    """Raises `UserError` for a model that the analytic model does not know."""
    model: Any = config.model
    if not isinstance(model, TransformerConfig) or model.encoder is not None:
        raise UserError(
            "model: the analytic model knows Transformers without a source alone, not this "
            f"{type_name(type(model))}; plan it for a TPU topology, where the step is compiled"
        )
    one = parse(MeshConfig, {"data": 1, "num_devices": 1}).build(jax.devices()[:1])
    program = program_of(
        config.replace(mesh=MeshConfig(), train=config.train.replace(accumulation=1)), one
    )
    axes = flatten(program.param_axes)
    params = tuple(
        Array(path, leaf.shape, leaf.dtype.itemsize, tuple(axes[path]))
        for path, leaf in flatten(program.abstract_params).items()
    )
    row, data_len = row_of(config), seq_len_of(config)
    seq_len, windows = tokens_of(row), model.attention.windows
    prefix = "prefix" in row
    causal = model.attention.causal and not prefix
    keys = sum(
        keys_met(seq_len, windows[i % len(windows)], causal) for i in range(model.num_layers)
    )
    full = model.attention.score_flops(model.hidden_size) * sum(
        keys_met(seq_len, windows[i % len(windows)], False) for i in range(model.num_layers)
    )
    score = model.attention.score_flops(model.hidden_size)
    forward = program.flops_per_token(data_len)
    computed = seq_len / data_len
    return Facts(
        config=config,
        params=params,
        moments=_moments(program, config),
        layers=_layers(params, model),
        seq_len=seq_len,
        data_len=data_len,
        row_bytes=sum(math.prod(shape) * dtype.itemsize for shape, dtype in row.values()),
        causal=causal,
        prefix=prefix,
        hidden=model.hidden_size,
        vocab=model.vocab_size or 1,
        itemsize=2 if model.dtype == "bfloat16" else 4,
        dtype="bf16" if model.dtype == "bfloat16" else "f32",
        tied=not any(p.path.startswith("unembed/kernel") for p in params),
        forward_flops=(forward * computed, (forward - score * keys + full) * computed),
        score_flops=score,
        keys=keys,
    )


def ways(axis: str | None, mesh: Mapping[str, int], without: Sequence[str] = ()) -> int:
    """Into how many parts a mesh splits a logical axis."""
    rule = RULES[axis] if axis is not None else None
    names = (rule,) if isinstance(rule, str) else (rule or ())
    return math.prod(mesh.get(name, 1) for name in names if name not in without)


def token_part(sizes: Sequence[tuple[str | None, int]], mesh: Mapping[str, int]) -> float:
    """Of a token's tensor the elements that one device holds."""
    return math.prod(size / ways(axis, mesh) for axis, size in sizes)


def _moments(program: Any, config: RunConfig) -> tuple[Array, ...]:
    shapes = jax.eval_shape(program.init_state, program.abstract_params)
    names = state_axes(shapes["opt_state"], program.abstract_params, program.param_axes)
    offload = bool(getattr(config.optimizer, "offload", False))
    found = []
    leaves = jax.tree_util.tree_leaves_with_path(shapes["opt_state"])
    for (keys, leaf), axes in zip(leaves, names, strict=True):
        path = "/".join(str(getattr(k, "key", getattr(k, "name", ""))) for k in keys)
        found.append(Array(path, leaf.shape, leaf.dtype.itemsize, axes, offload and bool(axes)))
    if "ema" in shapes:
        split = flatten(program.param_axes)
        found += [
            Array(f"ema/{path}", x.shape, x.dtype.itemsize, tuple(split[path]))
            for path, x in flatten(shapes["ema"]).items()
        ]
    return tuple(found)


def _layers(params: Sequence[Array], model: TransformerConfig) -> tuple[Layers, ...]:
    names = sorted({p.path.split("/")[0] for p in params if p.path.startswith("layers")})
    found = []
    for name in names:
        own = [p for p in params if p.path.split("/")[0] == name]
        count = own[0].shape[0]
        first = int(name.partition("_")[2] or 0)
        ffn: Any = model.ffn_of(first)
        experts = ffn if isinstance(ffn, MoEConfig) else None
        maps = tuple(m for p in own if (m := _map(p, count, experts)) is not None)
        found.append(Layers(count, maps, _tensors(maps, model), experts))
    return tuple(found)


def _map(array: Array, layers: int, experts: MoEConfig | None) -> LinearMap | None:
    words = array.path.split("/")
    if words[-1] != "kernel":
        return None
    name = words[-2]
    if words[1] in ("attention", "cross"):
        name = {"down": "down_latent", "up": "up_latent"}.get(name, name)
    dims = list(zip(array.axes, array.shape, strict=True))[1:]
    share = 1.0
    if dims[0][0] == "experts" and experts is not None:
        share = experts.experts_per_token / experts.num_experts
        dims = dims[1:]
    inner = {"out": 2}.get(name, 1)
    outputs = tuple(_as_activation(d) for d in dims[inner:])
    inputs = tuple(_as_activation(d) for d in dims[:inner])
    return LinearMap(array, MAKES.get(name, name), layers, share, outputs, inputs)


def _as_activation(dim: tuple[str | None, int]) -> tuple[str | None, int]:
    """A dim of a weight as one of an activation: what fsdp splits there is whole here."""
    axis, size = dim
    return (None if axis in ("embed", "latent", "hidden") else axis, size)


def _tensors(
    maps: Sequence[LinearMap], model: TransformerConfig
) -> dict[str, tuple[tuple[str | None, int], ...]]:
    """What a token's tensors measure, by the names that `Remat` knows."""
    found: dict[str, tuple[tuple[str | None, int], ...]] = {}
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
