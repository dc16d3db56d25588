"""The tensors that a layer saves for its backward pass or recomputes, by the remat policy.

    kept = keeping("named", saved=("query",), offloaded=("attention",), linear=True)
    kept.saves("query"), kept.recomputes("ffn_up")

A backward pass needs the layer's input and the inputs of every linear map and nonlinear function.
Tensors that are not saved are recomputed from those that are. The last product of a layer is not
recomputed, as nothing in the layer needs its result (unless a norm follows it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PRODUCTS = (
    "query",
    "key",
    "value",
    "attention_out",
    "cross_out",
    "ffn_gate",
    "ffn_up",
    "ffn_out",
    "router",
)


@dataclass(frozen=True)
class Kept:
    """The tensors of a layer that are saved for the backward pass."""

    policy: str
    on_device: frozenset[str]
    on_host: frozenset[str]
    norm_follows: bool  # a norm reads what each part adds

    def recomputes(self, tensor: str) -> bool:
        """Whether the product or kernel that makes a tensor runs again."""
        if self.policy == "none" or tensor in self.on_device | self.on_host:
            return False
        return tensor != "ffn_out" or self.norm_follows

    @property
    def recomputes_attention(self) -> bool:
        return self.policy != "none" and "attention" not in self.on_device | self.on_host


def keeping(
    policy: str, saved: Sequence[str] = (), offloaded: Sequence[str] = (), *, norm_follows: bool
) -> Kept:
    """The tensors that a policy of `StackConfig.remat` saves."""
    if policy == "named":
        return Kept(policy, frozenset(saved), frozenset(offloaded), norm_follows)
    if policy in ("dots", "minimal"):
        names = {n for n in PRODUCTS if n != "ffn_out" or norm_follows}
        return Kept(policy, frozenset(names), frozenset(), norm_follows)
    if policy == "none":
        # norms' outputs, products and what nonlinear functions were given
        return Kept(
            policy,
            frozenset((*PRODUCTS, "attention", "ffn_hidden", "states")),
            frozenset(),
            norm_follows,
        )
    assert policy == "full", policy
    return Kept(policy, frozenset(), frozenset(), norm_follows)
