"""FLOPs of kernels that a compiled program calls by name, from the shapes of their operands.

Splash attention, with q [.., N, T, H], k [.., K, S, H], v [.., K, S, H'] and the share of the
T x S pairs that it looks at:

    forward              2 N T S (H + H')        scores, weighted sum
    backward, fused      2 N T S (3 H + 2 H')    scores again, d v, d weights, d k, d q

And the products of experts, ragged dots, by the rows that are filled: where experts are split over
devices, each has room for all rows of its group, of which on average one device's part comes, and
the kernels pass over the rest.

Nothing in the module tells what a window or the diagonal hides; of the blocks, whose size it tells,
half of one is looked at in vain where the border passes: with n of them along the length,
n (n + 1) / 2 of n^2 are on or below the diagonal. Where nothing is hidden, the scope of the call
says so; and where keys stand twice, for the sake of a prefix, that the first half of them is looked
at whole.
"""

from __future__ import annotations

import math
import re

from jaxlm.kernels.filled import ROOM
from jaxlm.kernels.splash import FULL, PREFIX
from jaxlm.plan.hlo.text import Computation, Op
from jaxlm.plan.hlo.traffic import GROUPED

FLOATS = ("bf16", "f32", "f16")
SILENT = (  # calls that multiply nothing
    *("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "Sharding", "Async"),
    *("TopK", "SliceId", "ZeroCrop", "PadToStatic", "SliceToDynamic", "Sort", "xla_ffi"),
    *("MoveToHost", "MoveToDevice", "annotate_device_placement", "PrepareAsyncCall"),
    *("SPMDFullToShardShape", "SPMDShardToFullShape", "GatherScatterIndicesBitpacked"),
)


def kernel_flops(
    op: Op, computation: Computation, visible: float | None, filled: float = 1.0
) -> tuple[float, str]:
    """(FLOPs, "") of a custom call; (0, its name) where they are not known.

    `visible`: the share of a row's pairs of tokens that attention shows; None: a causal half.
    """
    target = (op.attribute("custom_call_target") or "").strip('"')
    if target.startswith(SILENT) or op.name.startswith(ROOM):
        return 0.0, ""
    name = f"{op.name} {op.op_name}"
    if op.name.startswith(GROUPED):
        return filled * _ragged_dot(op, computation), ""
    if "splash_mha" not in name:
        return 0.0, target if target != "tpu_custom_call" else f"{target} ({op.name})"
    shapes = [computation.by_name[n].shapes[0] for n in op.operands]
    arrays = [s for s in shapes if len(s.dims) >= 3 and s.dtype in FLOATS]
    q, k, v = arrays[:3]
    length, keys, head = q.dims[-2], k.dims[-2], q.dims[-1]
    scopes = op.op_name.split("/")
    if PREFIX in scopes:
        share = (1 + _looked_at(op, keys // 2, visible)) / 2
    else:
        share = 1.0 if FULL in scopes else _looked_at(op, keys, visible)
    per_pair = (
        2.0 * (3 * head + 2 * v.dims[-1])
        if "dkv" in name or "bwd" in name
        else (2.0 * (head + v.dims[-1]))
    )
    return math.prod(q.dims[:-2]) * length * keys * share * per_pair, ""


def _ragged_dot(op: Op, computation: Computation) -> float:
    """Rows [M, K] with each one's own of kernels [E, K, N], or the kernels' gradients of them."""
    shapes = [computation.by_name[n].shapes[0] for n in op.operands]
    found = [s.dims for s in shapes if len(s.dims) >= 2 and s.dtype in FLOATS]
    if len(found) < 2:
        return 0.0  # what only prepares it
    rows, other = found[:2]
    columns = other[-1] if len(op.shapes[0].dims) == 3 else op.shapes[0].dims[-1]
    return 2.0 * rows[0] * rows[1] * columns


def _looked_at(op: Op, keys: int, visible: float | None) -> float:
    """The share of all pairs that is computed: what is visible, blocks on the border whole."""
    block = re.search(r'block_kv(?:_dkv)?\\?":? (\d+)', op.attributes)
    size = int(block[1]) if block else keys
    return min(1.0, (0.5 if visible is None else visible) + size / (2 * keys))
