"""A stack of Transformer blocks with pre-norm, post-norm or both, with or without cross-attention.

    pre   x = x + f(norm(x))            GPT-2, Llama, T5
    post  x = norm(x + f(x))            the original Transformer, BERT
    both  x = x + norm'(f(norm(x)))     Gemma 2 and 3

where f is attention, then (with a source) attention over the source, then the ffn. A decoder, an
encoder, and both halves of an encoder-decoder are this stack with different configs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import REQUIRED, Config, UserError, field
from jaxlm.core.registry import type_name
from jaxlm.core.types import (
    LOAD,
    AttentionConfig,
    Dtype,
    Encoded,
    FFNConfig,
    NormConfig,
    PositionConfig,
)
from jaxlm.kernels.quantized import Quantization, load_qwix
from jaxlm.kernels.registry import platform
from jaxlm.mesh import is_split, shard
from jaxlm.nn.attention import MultiHeadConfig
from jaxlm.nn.dense import Dense
from jaxlm.nn.dropout import dropout, split_key, split_keys
from jaxlm.nn.experts import ExpertKernels
from jaxlm.nn.ffn import DenseConfig
from jaxlm.nn.flops import keys_met
from jaxlm.nn.given import Found, Given
from jaxlm.nn.norm import RMSNormConfig
from jaxlm.nn.position import RotaryConfig, Rows
from jaxlm.nn.stack import Apart, Remat, Run, apply_stack, named, runs_of, stack, taken_apart

UNROLLED = 8  # layers that a CPU runs without a scan: a scan copies what the backward pass reads
CACHED = 12  # the same with a cache, which a scan copies for each token

SPLIT = ("fsdp", "tensor", "expert")  # axes of a mesh that split weights


@dataclass(frozen=True, kw_only=True)
class OtherFFN(Config):
    """Layers whose ffn is not that of the others."""

    layers: tuple[int, ...] = field(REQUIRED, "their numbers, from 0", ge=0)
    ffn: FFNConfig = field(REQUIRED, "their ffn")


@dataclass(frozen=True, kw_only=True)
class StackConfig(Config):
    """A stack of Transformer blocks."""

    hidden_size: int = field(256, "width of the residual stream", ge=1, le=2**20)
    num_layers: int = field(4, "number of blocks", ge=1, le=2000)
    attention: AttentionConfig = field(MultiHeadConfig, "how tokens attend to each other")
    ffn: FFNConfig = field(DenseConfig, "the feed-forward network")
    other_ffn: OtherFFN | None = field(None, "layers with another ffn; null: none")
    norm: NormConfig = field(RMSNormConfig, "how hidden states are normalized")
    norm_placement: Literal["pre", "post", "both"] = field(
        "pre", "norms before each sublayer, after the residual sum, or on both sides of it"
    )
    position: tuple[PositionConfig, ...] = field(
        lambda: (RotaryConfig(),), "how positions enter; several: cycled over the layers"
    )
    dropout: float = field(
        0.0, "dropout on the embeddings and on each sublayer's output", ge=0, lt=1
    )
    initializer_range: float | None = field(
        0.02, "std of initial kernels and embeddings; null: 1/sqrt(fan in) for kernels", gt=0
    )
    dtype: Dtype = field(
        "auto",
        "dtype of activations and matmuls; auto: bfloat16 on accelerators, float32 on a CPU",
        affects="schedule",
    )
    quantization: Quantization | None = field(
        None,
        "8-bit matmuls with the layers' weights, forward and backward, except the router's; "
        "weights are stored in float32; null: off",
    )
    remat: Literal["none", "minimal", "dots", "full", "named"] = field(
        "none",
        "what the backward pass recomputes: none; minimal: elementwise; dots: and attention; "
        "full: layers; named: all except the tensors in saved and offloaded",
    )
    saved: tuple[str, ...] = field((), "tensors of each layer that stay on the device")
    offloaded: tuple[str, ...] = field((), "tensors of each layer that are offloaded to the host")
    scan_layers: bool | None = field(
        None,
        "compile one layer and scan, instead of unrolling all layers; null: unrolled on CPUs, up "
        f"to {UNROLLED} layers whose weights no mesh splits",
    )

    def validate(self) -> None:
        self.attention.check(self.hidden_size)
        for position in self.position:
            position.check_head(self.attention.rotary_size(self.hidden_size))
        if not self.position:
            raise UserError("position: is empty; name one, such as {type: rotary}")
        for position in self.position if len(self.position) > 1 else ():
            if not position.per_layer:
                raise UserError(
                    f"position: {type_name(type(position))} cannot be cycled over the layers; "
                    "name it alone, or cycle others, such as rotary and none"
                )
        for layer in self.other_ffn.layers if self.other_ffn else ():
            if layer >= self.num_layers:
                raise UserError(
                    f"other_ffn.layers: there is no layer {layer}; "
                    f"number the {self.num_layers} layers from 0"
                )
        self._check_remat()

    def scans(self, count: int, most: int = UNROLLED) -> bool:
        """Whether `count` equal layers run by a scan, on the platform and mesh of the program.

        Where a mesh splits weights, a scan gathers those of one layer at a time. Otherwise CPUs run
        up to `most` layers one by one.
        """
        if self.scan_layers is not None:
            return self.scan_layers and count > 1
        unrolls = platform() == "cpu" and not any(map(is_split, SPLIT))
        return count > (most if unrolls else 1)

    def _check_remat(self) -> None:
        chosen = [*self.saved, *self.offloaded]
        if (self.remat == "named") != bool(chosen):
            raise UserError(
                "remat: what saved and offloaded name is kept where remat is named, and only "
                "there; set remat to named and at least one name"
            )
        ffns = {self.ffn, *(other.ffn for other in [self.other_ffn] if other)}
        known = [*self.attention.tensors, *(name for ffn in ffns for name in ffn.tensors)]
        for name in chosen:
            if name not in known:
                raise UserError(
                    f"saved, offloaded: no tensor of a layer is called {name!r}; "
                    f"there are {', '.join(dict.fromkeys(known))}"
                )
            if chosen.count(name) > 1:
                raise UserError(f"saved, offloaded: {name!r} is named twice; name it once")

    @property
    def period(self) -> int:
        """Layers after which windows and positions repeat."""
        return math.lcm(len(self.attention.windows), len(self.position))

    def ffn_of(self, layer: int) -> FFNConfig:
        other = self.other_ffn
        return self.ffn if other is None or layer not in other.layers else other.ffn

    @property
    def runs(self) -> tuple[Run, ...]:
        """Its layers as stacks, each of one kind."""
        return runs_of([self.ffn_of(layer) for layer in range(self.num_layers)])

    def check_runs(self, stages: int, repeats: int, path: str) -> None:
        """Raises `UserError` if a run of layers cannot be cut equally; `path`: the stack's key."""
        counts = [run.count for run in self.runs]
        if self.other_ffn is None or math.gcd(*counts) % (stages * repeats) == 0:
            return
        common = math.gcd(*counts)
        fix = "set mesh.stage to 1, and split data, fsdp or expert"
        if common > 1:
            fix = f"choose mesh.stage and mesh.stage_repeats whose product divides {common}"
        raise UserError(
            f"{path}.other_ffn.layers: {list(self.other_ffn.layers)} makes runs of "
            f"{', '.join(map(str, counts))} layers, which cannot each be cut into {stages} stages "
            f"x {repeats} repeats; {fix}"
        )


class Stacked(NamedTuple):
    """The output of a stack."""

    hidden: jax.Array  # [B, T, D], after the final norm where there is one
    slots: Any  # the cache of every layer
    losses: dict[str, jax.Array]  # [B]
    states: Any  # [L, B, T, D] where they are asked for
    load: dict[str, jax.Array] | None  # {run: [L, E]} of experts, where there are any


class Stack(nnx.Module):
    """Blocks, their positions and the final norm."""

    def __init__(
        self, config: StackConfig, *, reads_source: bool = False, rngs: nnx.Rngs, **_: Any
    ) -> None:
        c = self.config = config
        self.dtype = jnp.dtype(c.dtype)
        std = 0.02 if c.initializer_range is None else c.initializer_range
        self.position = c.position[0].build(
            c.hidden_size, c.attention.num_heads, std=std, dtype=self.dtype, rngs=rngs
        )
        self.runs = c.runs
        for run in self.runs:
            make = lambda rngs, run=run: Block(c, run.kind, reads_source, rngs=rngs)  # noqa: E731
            setattr(self, run.name, stack(make, run.count, rngs=rngs))
        self.final_norm = None if c.norm_placement == "post" else c.norm.build(c.hidden_size)

    def add_positions(self, x: jax.Array, positions: jax.Array, **rows: jax.Array) -> jax.Array:
        """Embeddings [B, T, D] with what their positions add; `rows`: see `PositionConfig.add`."""
        return self.config.position[0].add(x, positions, self.position, **rows)

    @jax.named_scope("layers")
    def run_layers(
        self,
        x: jax.Array,  # [B, T, D]
        rows: Rows,
        *,
        slots: Any = None,
        keys: Rows | None = None,
        start: Any = 0,
        source: Any = None,
        encoded: Encoded | None = None,
        key: jax.Array | None = None,
        with_states: bool = False,
    ) -> Stacked:
        """All blocks and the final norm.

        `slots`, `keys`, `start`: the cache (see `jaxlm.nn.attention`). `encoded`: the source, if
        there is one; `source`: what `project_source` made of it, where that is kept. `key` switches
        dropout on.
        """
        c = self.config
        size = c.attention.rotary_size(c.hidden_size)
        of_rows = {
            "rows": rows,
            "keys": keys,
            "encoded": encoded,
            "rotary": [p.angles(rows, size) for p in c.position],
        }
        bias = c.position[0].bias(self.position, c.attention.is_causal)
        assert (bias is not None) == c.position[0].has_bias, "has_bias says whether there is one"
        shared = {"start": start, "bias": bias}
        layer_keys = None if key is None else split_keys(key, c.num_layers)
        after, losses, states, load = {}, [], [], {}
        for run in self.runs:
            apart = slots is not None and isinstance(slots[run.name], Apart)

            def body(
                layer: Block, x: jax.Array, given: Given, run: Run = run, apart: bool = apart
            ) -> Any:
                kind = given.kind + run.first
                window = c.attention.windows[kind % len(c.attention.windows)]
                x, slots, losses = layer(x, given, kind=kind, window=window)
                load = losses.pop(LOAD, None)
                own = Apart([slots]) if apart else slots
                return x, Found((own, losses, x if with_states else None), load)

            xs = (
                None if slots is None else slots[run.name],
                None if source is None else source[run.name],
            )
            x, found = apply_stack(
                getattr(self, run.name),
                body,
                x,
                xs,
                keys=None if layer_keys is None else layer_keys[run.first :][: run.count],
                rows=of_rows,
                shared=shared,
                num_layers=run.count,
                period=min(c.period, run.count),
                scan=c.scans(run.count) and not apart,
                remat=Remat(c.remat, c.saved, c.offloaded),
            )
            after[run.name], added, seen = found.by_row
            if found.sums is not None:
                load[run.name] = found.sums
            losses.append({name: value.sum(0) for name, value in added.items()})
            states.append(seen)
        names = {name for found in losses for name in found}
        total = {name: sum(f[name] for f in losses if name in f) for name in sorted(names)}
        every = jnp.concatenate(states) if with_states else None
        if self.final_norm is not None:
            x = self.final_norm(shard(x, "batch", "head_length", "act_embed"))
        return Stacked(x, None if slots is None else after, total, every, load or None)

    def adjust(self, load: dict[str, jax.Array]) -> None:
        """Updates parameters without a gradient (choice biases), by the load of each expert."""
        for name, by_layer in load.items():
            getattr(self, name).ffn.adjust(by_layer)

    def init_slots(self, batch_size: int, max_len: int) -> Any:
        """Empty slots of every layer, {run: {name: [L, B, ...]}}, or `Apart` of {name: [B, ...]}
        where the layers run one by one."""
        c = self.config

        def one() -> Any:
            return c.attention.init_cache(c.hidden_size, batch_size, max_len, self.dtype)

        def of(run: Run) -> Any:
            if not self._stacks(run):
                return Apart([one() for _ in range(run.count)])
            return jax.tree.map(lambda x: jnp.broadcast_to(x, (run.count, *x.shape)), one())

        return {run.name: of(run) for run in self.runs}

    def unstack(self) -> None:
        """Takes apart the weights of the layers that run one by one with a cache."""
        for run in self.runs:
            if not self._stacks(run):
                layers = getattr(self, run.name)
                state = nnx.state(layers)
                nnx.update(layers, jax.tree.map(partial(taken_apart, run.count), state))

    def _stacks(self, run: Run) -> bool:
        """Whether the arrays of a run's layers have to be stacked."""
        return self.config.scans(run.count, CACHED) or is_split("stage")

    def project_source(self, hidden: jax.Array) -> Any:
        """Keys and values of an encoder's output, for every layer, as `init_slots` has them."""
        out = {}
        for run in self.runs:
            stacks = self._stacks(run)

            def body(
                layer: Block, x: jax.Array, given: Given, stacks: bool = stacks
            ) -> tuple[jax.Array, Found]:
                own = layer.cross.project_source(hidden)
                return x, Found(own if stacks else Apart([own]))

            layers, none = getattr(self, run.name), jnp.zeros(())
            scan = stacks and self.config.scans(run.count)
            found = apply_stack(layers, body, none, num_layers=run.count, scan=scan)[1]
            out[run.name] = found.by_row
        return out

    def source_flops(self) -> float:
        """Forward FLOPs of a source's token in `project_source`."""
        return sum(getattr(self, run.name).cross.source_flops() for run in self.runs)

    def score_flops(self, length: int, *, is_causal: bool) -> float:
        """Forward FLOPs a token of scores and weighted sums, in rows of `length` tokens."""
        c = self.config
        windows = c.attention.windows
        keys = sum(
            keys_met(length, windows[i % len(windows)], is_causal and c.attention.is_causal)
            for i in range(c.num_layers)
        )
        return c.attention.score_flops(c.hidden_size) * keys


def unstack(model: nnx.Module) -> None:
    """Takes apart the stacked weights of a model that runs layer by layer, once before a loop over
    tokens that would copy each layer's part for each token. The model can then only be called.
    """
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Stack):
            module.unstack()


class Block(nnx.Module):
    """One layer."""

    def __init__(
        self, config: StackConfig, ffn: FFNConfig, reads_source: bool, *, rngs: nnx.Rngs
    ) -> None:
        c = config
        self.placement, self.dropout = c.norm_placement, c.dropout
        options: dict[str, Any] = {
            "std": c.initializer_range,
            # the sum of 2L contributions keeps its variance
            "out_scale": 1 / math.sqrt(2 * c.num_layers),
            "dtype": jnp.dtype(c.dtype),
            "rngs": rngs,
        }
        pairs = [p.interleaved for p in c.position if p.interleaved is not None]
        attention = {"norm": c.norm, **options}
        norm = lambda: c.norm.build(c.hidden_size)  # noqa: E731
        both = c.norm_placement == "both"
        self.attention_norm = norm()
        self.attention = c.attention.build(
            c.hidden_size,
            rotary_interleaved=bool(pairs) and pairs[0],
            **attention,
        )
        self.attention_post_norm = norm() if both else None
        self.cross_norm = norm() if reads_source else None
        cross = c.attention.replace(is_causal=False, window=())
        self.cross: Any = cross.build(c.hidden_size, **attention) if reads_source else None
        self.cross_post_norm = norm() if both and reads_source else None
        self.ffn_norm = norm()
        self.ffn = ffn.build(c.hidden_size, **options)
        self.ffn_post_norm = norm() if both else None
        if c.quantization is not None:
            load_qwix()
            has_weights = nnx.All(
                nnx.Any(Dense, ExpertKernels), nnx.Not(nnx.PathContains("router"))
            )
            self.set_attributes(has_weights, quantization=c.quantization)

    def __call__(
        self, x: jax.Array, given: Given, *, kind: int, window: int | None
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """The stream, this layer's slots and losses; `given` is what `Stack.run_layers` gives."""
        weights_key, first, second, cross_key, third = split_key(given.key, 5)
        (slots, source), rows = given.xs, given.rows["rows"]
        encoded: Encoded | None = given.rows["encoded"]
        rotary = given.rows["rotary"]
        y, slots = self.attention(
            self._input(x, self.attention_norm),
            cache=slots,
            rows=rows,
            keys=given.rows["keys"],
            rotary=rotary[kind % len(rotary)],
            window=window,
            key=weights_key,
            **given.shared,
        )
        y = named(y, "attention_out")
        x = self._add(x, y, self.attention_norm, self.attention_post_norm, first)

        if self.cross is not None:
            assert encoded is not None, "cross-attention needs an encoded source"
            if source is None:
                source = self.cross.project_source(encoded.hidden)
            y = self.cross.cross(
                self._input(x, self.cross_norm),
                source,
                rows=rows,
                source_segment_ids=encoded.segment_ids,
                key=cross_key,
            )
            x = self._add(x, y, self.cross_norm, self.cross_post_norm, third)

        y = self._input(x, self.ffn_norm)
        y, losses = self.ffn(y, rows.segment_ids, dropless=slots is not None)
        y = named(y, "ffn_out")
        return self._add(x, y, self.ffn_norm, self.ffn_post_norm, second), slots, dict(losses)

    # Devices that split heads and ffn also split the length of the stream: the work between
    # sublayers is done, and stored, once (Korthikanti et al. 2022, arXiv:2205.05198).

    def _input(self, x: jax.Array, norm: Any) -> jax.Array:
        """The input [B, T, D] of a sublayer, whole along the length."""
        x = x if self.placement == "post" else norm(x)
        return shard(x, "batch", "length", "act_embed")

    def _add(self, x: jax.Array, y: jax.Array, norm: Any, post_norm: Any, key: Any) -> jax.Array:
        """The stream [B, T, D] plus the output of a sublayer, with the norms after it."""
        y = shard(y, "batch", "stream_length", "act_embed")
        if post_norm is not None:
            y = post_norm(y)
        x = x + dropout(y, self.dropout, key)
        x = norm(x) if self.placement == "post" else x
        return shard(x, "batch", "stream_length", "act_embed")
