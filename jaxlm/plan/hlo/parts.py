"""The part of a model that an instruction of a compiled program belongs to, and its phase.

Model code names its parts by `jax.named_scope`, which jax writes into the name of each instruction:

    jit(train_step)/transpose(jvp(layers))/while/body/checkpoint/attention/dot_general

The innermost scope that is a part's name wins. A file that is moved or renamed changes nothing.
The phase follows from what jax's transformations add to the name.
"""

from __future__ import annotations

import re
from functools import cache

from jaxlm.plan.hlo.text import Op

# {scope: the part's name in a plan}; "layers" has what no part inside of a layer claims
PARTS = {
    "attention": "attention",
    "embedding": "embedding",
    "experts": "experts",
    "ffn": "ffn",
    "head": "head",
    "layers": "residual stream",
    "norm": "norm",
    "optimizer": "optimizer",
    "recurrence": "recurrence",
    "router": "router",
}
PHASES = ("forward", "recomputation", "backward", "update")

# A scope as jax's transformations wrap it: "transpose(jvp(head))". "jit(norm)" is a function.
_SCOPE = re.compile(r"(?:(?:transpose|jvp|vmap|shard_map)\()*(\w+)\)*")


def module_of(op: Op) -> str:
    """The part's name; "step" for the rest of the train step, "other" without a name."""
    return _part(op.op_name)


@cache
def _part(op_name: str) -> str:
    for segment in reversed(op_name.split("/")):
        match = _SCOPE.fullmatch(segment)
        if match and match[1] in PARTS:
            return PARTS[match[1]]
    return "step" if "/" in op_name else "other"


def phase_of(op: Op) -> str:
    """One of `PHASES`, by what jax wrote into the instruction's name."""
    name = op.op_name
    if "rematted_computation" in name:
        return "recomputation"
    if "transpose(" in name:
        return "backward"
    return "forward" if "jvp(" in name else "update"
