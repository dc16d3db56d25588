"""LoRA (Hu et al. 2021, arXiv:2106.09685): a low-rank change of kernels that stay frozen.

    y = x W + s (dropout(x) A) B        s = alpha / rank        A [in, rank], B [rank, out]

    adapter: {type: lora, rank: 8, alpha: 16, targets: [query, value]}
    adapter: {type: lora, targets: all-linear, rank_pattern: {ffn/down: 4}, train: ["^unembed/"]}

A is drawn from U(-1/sqrt(in), 1/sqrt(in)), the Kaiming-uniform rule with a = sqrt(5), and B starts
at 0, so a run starts from its base. Kernels keep their dims apart: for one of [D, N, H], A is
[D, rank] and B [rank, N, H]. Stacked layers and experts have an A and a B each. Kernels that a loop
over time or sorted experts multiply with are changed first: W + s A B. Of a table of embeddings
[V, D], A [V, rank] starts at 0 and B [rank, D] is drawn from N(0, 1); a head that is tied to the
table changes with it. Dropout is for kernels with an input of their own: not for these three.

`base_weights` stores the frozen kernels in 4 or 8 bits (QLoRA: `jaxlm.nn.stored_kernel`), those
without an A and B as well; not embeddings, the output embedding and what is trained in full. The
base is then what these bits say, in each matmul and in the merged model.

`rslora` (Kalajdzievski 2023, arXiv:2312.03732) has s = alpha / sqrt(rank). `rank` 0 adds nothing:
the model is its base to the bit, and only new heads are trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.adapters.base import Adapter, check_patterns, no_match
from jaxlm.adapters.targets import ALL, by_pattern, chosen
from jaxlm.core.config import UserError, field
from jaxlm.core.errors import few
from jaxlm.core.tree import flatten, unflatten
from jaxlm.kernels.contract import contract
from jaxlm.mesh import gather_weight
from jaxlm.nn.adapter_key import key_of_adapter
from jaxlm.nn.dense import Adaptable
from jaxlm.nn.dropout import dropout
from jaxlm.nn.embed import Embedding
from jaxlm.nn.heads.base import is_of_head
from jaxlm.nn.stored_kernel import StoredAs, as_plain, store

A, B = "lora_a", "lora_b"
INSIDE = "adapter"  # the attribute of a module that has one


@dataclass(frozen=True, kw_only=True)
class LoRA(Adapter):
    """Train a low-rank change of chosen kernels (arXiv:2106.09685)."""

    rank: int = field(8, "the rank of each kernel's change; 0: none", ge=0)
    alpha: float = field(16.0, "the change is scaled by alpha / rank", gt=0)
    rslora: bool = field(False, "scale by alpha / sqrt(rank) instead (arXiv:2312.03732)")
    dropout: float = field(0.0, "dropout on the input of A", ge=0, lt=1)
    targets: tuple[str, ...] = field(
        (ALL,),
        "modules that are adapted: the last parts of their paths, regular expressions for them, or "
        "published names such as q_proj; all-linear: every one but the output embedding",
    )
    exclude: tuple[str, ...] = field((), "modules that are not adapted, in the form of targets")
    rank_pattern: dict[str, int] = field(dict, "target -> its own rank; the first match counts")
    alpha_pattern: dict[str, float] = field(dict, "target -> its own alpha; the first match counts")
    train: tuple[str, ...] = field(
        (), "regular expressions: parameters that are trained in full as well; new heads always are"
    )
    base_weights: StoredAs | None = field(
        None, "how frozen kernels are stored: nf4 (4 bits) or int8 (QLoRA); null: float32"
    )
    adapts_tables: ClassVar[bool] = True  # whether a table of embeddings can be a target

    def __hash__(self) -> int:  # a dict has none
        return hash(repr(self))

    def validate(self) -> None:
        for key in ("targets", "exclude", "rank_pattern", "alpha_pattern", "train"):
            check_patterns(key, getattr(self, key))
        for key, least in (("rank_pattern", 1), ("alpha_pattern", 1e-30)):
            for pattern, value in getattr(self, key).items():
                if value < least:
                    raise UserError(f"{key}.{pattern}: {value} is too small; use a positive number")

    def apply(self, model: Any, *, rngs: nnx.Rngs) -> None:
        found = {
            "/".join(map(str, path)): node
            for path, node in nnx.iter_graph(model)
            if isinstance(node, (Adaptable, Embedding))
        }
        found = {path: node for path, node in found.items() if not is_of_head(path)}
        linear = [path for path, node in found.items() if isinstance(node, Adaptable)]
        tables = [path for path in found if path not in linear and self.adapts_tables]
        paths = chosen("adapter.targets", self.targets, linear, tables)
        paths -= chosen("adapter.exclude", self.exclude, linear, tables)
        settings = self.settings(sorted(paths))
        for number, path in enumerate(sorted(paths)):
            rank, scale = settings[path]
            if rank:
                if self.dropout and not found[path].has_input and path in linear:
                    raise UserError(
                        f"adapter.dropout: {path} has no input of its own to drop from, its kernel "
                        "is changed as a whole; set dropout to 0, or name it in adapter.exclude"
                    )
                own = self.build(found[path], rank, scale, rngs=rngs)
                own.rate, own.number = self.dropout, number
                found[path].adapter = own
        if self.base_weights is not None:
            for path, node in found.items():
                if isinstance(node, Adaptable) and not self.trains(f"{path}/kernel"):
                    store(node, self.base_weights)

    @property
    def off(self) -> Adapter | None:
        return None if self.base_weights is None else self.replace(rank=0, rank_pattern={})

    @property
    def low_rank(self) -> LoRA:
        return self

    def settings(self, paths: Iterable[str]) -> dict[str, tuple[int, float]]:
        """{path: (rank, scale)} of adapted modules."""
        paths = list(paths)
        ranks = by_pattern("adapter.rank_pattern", self.rank_pattern, paths)
        alphas = by_pattern("adapter.alpha_pattern", self.alpha_pattern, paths)
        out = {}
        for path in paths:
            rank, alpha = int(ranks.get(path, self.rank)), alphas.get(path, self.alpha)
            out[path] = rank, alpha / (math.sqrt(rank) if self.rslora else rank) if rank else 0.0
        return out

    def build(
        self, of: Adaptable | Embedding, rank: int, scale: float, *, rngs: nnx.Rngs
    ) -> LowRank | LowRankTable:
        """The adapter of one module."""
        kind: Any = LowRankTable if isinstance(of, Embedding) else LowRank
        return kind(of, rank, scale, rngs=rngs)

    def trains(self, path: str) -> bool:
        own = path.split("/")[-2:-1] == [INSIDE]
        return own or any(re.search(pattern, path) for pattern in self.train)

    def check(self, paths: Sequence[str]) -> None:
        for pattern in self.train:
            if not any(re.search(pattern, path) for path in paths):
                raise no_match("adapter.train", pattern, paths)

    @property
    def unknown_to_peft(self) -> str | None:
        """The part of it that PEFT lacks for experts and routers; None: nothing."""
        return "dropout" if self.dropout else None

    def remarks(self, axes: Mapping[str, Sequence[str | None]]) -> list[str]:
        own = {p for p, names in axes.items() if "experts" in names or "/router/" in p}
        paths = sorted(adapted_modules({p: None for p in own}))
        lacks = self.unknown_to_peft
        if not paths or lacks is None:
            return []
        return [
            f"adapter.targets: {few(paths)} are of experts and routers, which have no {lacks} "
            "in PEFT: `jaxlm export peft` will refuse this adapter, and `jaxlm export hf` merges "
            f"it; to export it alone, leave them out by adapter.exclude=[{', '.join(paths)}]"
        ]

    def merge(self, params: dict[str, Any]) -> dict[str, Any]:
        flat = as_plain(flatten(params))
        adapted = adapted_modules(flat)
        for where, (_, scale) in self.settings(adapted).items():
            own = {name: flat.pop(f"{where}/{INSIDE}/{name}") for name in adapted[where]}
            leaf = next(x for x in (f"{where}/kernel", f"{where}/table") if x in flat)
            flat[leaf] = self.changed(flat[leaf], own, scale)
        return unflatten(flat)

    def changed(self, kernel: jax.Array, own: Mapping[str, Any], scale: float) -> jax.Array:
        """The kernel that computes what an adapted one does, float32."""
        return kernel + change(own[A], own[B], kernel.ndim, scale)


class LowRank(nnx.Module):
    """The A and B of one kernel, or of the kernels of stacked layers and experts."""

    rate: float = 0.0  # the share of the input that dropout drops
    number: int = 0  # among the adapters of the model

    def __init__(self, of: Adaptable, rank: int, scale: float, *, rngs: nnx.Rngs) -> None:
        shape, axes = of.kernel.shape, of.kernel.get_metadata()["axes"]
        stacked = len(shape) - len(axes)  # by `jaxlm.nn.stack`, which adds no axis
        experts = int(axes[0] == "experts")
        first = stacked + experts
        last = first + of.num_inputs
        inputs, outputs = shape[first:last], shape[last:]
        bound = 1 / math.sqrt(math.prod(inputs))
        drawn = jax.random.uniform(
            rngs.params(), (*shape[:first], *inputs, rank), jnp.float32, -bound, bound
        )
        zeros = jnp.zeros((*shape[:first], rank, *outputs), jnp.float32)
        own = axes[:experts]
        self.scale, self.num_inputs = scale, of.num_inputs
        self.lora_a = nnx.Param(drawn, axes=(*own, *axes[experts : last - stacked], "rank"))
        self.lora_b = nnx.Param(zeros, axes=(*own, "rank", *axes[last - stacked :]))

    def __call__(self, x: jax.Array, y: jax.Array, kernel: jax.Array) -> jax.Array:
        """y [..., *outputs] with the change for x [..., *inputs], both in the compute dtype."""
        a, b = (
            gather_weight(p.get_value(), p.get_metadata()["axes"], x.dtype)
            for p in (self.lora_a, self.lora_b)
        )
        x = dropout(x, self.rate, key_of_adapter(self.number) if self.rate else None)
        return y + self.scale * contract(contract(x, a, self.num_inputs), b, 1)

    def kernel(self, kernel: jax.Array) -> jax.Array:
        """W + s A B, float32."""
        a, b = self.lora_a.get_value(), self.lora_b.get_value()
        return kernel + change(a, b, kernel.ndim, self.scale)

    def matmul_flops(self) -> float:
        return 2.0 * (math.prod(self.lora_a.shape) + math.prod(self.lora_b.shape))


class LowRankTable(nnx.Module):
    """The A [V, rank] and B [rank, D] of a table of embeddings."""

    rate: float = 0.0
    number: int = 0

    def __init__(self, of: Embedding, rank: int, scale: float, *, rngs: nnx.Rngs) -> None:
        (rows, dim), (first, last) = of.table.shape, of.table.get_metadata()["axes"]
        drawn = jax.random.normal(rngs.params(), (rank, dim), jnp.float32)
        self.scale = scale
        self.lora_a = nnx.Param(jnp.zeros((rows, rank), jnp.float32), axes=(first, "rank"))
        self.lora_b = nnx.Param(drawn, axes=("rank", last))

    def __call__(self, tokens: jax.Array, x: jax.Array) -> jax.Array:
        """The embeddings x [..., D] of tokens [...] with their change."""
        a, b = (
            gather_weight(p.get_value(), p.get_metadata()["axes"], x.dtype)
            for p in (self.lora_a, self.lora_b)
        )
        return x + self.scale * contract(jnp.take(a, tokens, axis=0, mode="fill"), b, 1)

    def table(self, table: jax.Array) -> jax.Array:
        """W + s A B, float32."""
        return table + change(self.lora_a.get_value(), self.lora_b.get_value(), 2, self.scale)


def change(a: jax.Array, b: jax.Array, ndim: int, scale: float) -> jax.Array:
    """s A B for a kernel of `ndim` dims, float32; the dims of a stack come first in all three."""
    stack = a.ndim + b.ndim - 2 - ndim
    rows = a.reshape(*a.shape[:stack], -1, a.shape[-1])
    columns = b.reshape(*b.shape[:stack], b.shape[stack], -1)
    product = jnp.matmul(rows, columns, precision="highest")
    return scale * product.reshape(*a.shape[:-1], *b.shape[stack + 1 :])


def adapted_modules(flat: Mapping[str, Any]) -> dict[str, list[str]]:
    """{path: names of its adapter's parameters} of the modules that have one."""
    out: dict[str, list[str]] = {}
    for path in flat:
        where, inside, name = path.rpartition(f"/{INSIDE}/")
        if inside:
            out.setdefault(where, []).append(name)
    return out
