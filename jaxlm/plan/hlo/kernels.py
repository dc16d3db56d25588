"""FLOPs of kernels that a compiled program calls by name, from the shapes of their operands.

Splash attention, with q [.., N, T, H], k [.., K, S, H], v [.., K, S, H'] and the share of the
T x S pairs that it looks at:

    forward              2 N T S (H + H')        scores, weighted sum
    backward, fused      2 N T S (3 H + 2 H')    scores again, d v, d weights, d k, d q

Experts' ragged dots count the rows that are filled: if experts are split over devices, each device
has room for all rows of its group, but receives one device's part on average, and the kernels skip
the rest.

The module does not say what a window or the diagonal hides. Its block size is known, and half of a
block on the diagonal is computed in vain: with n blocks along the length, n (n + 1) / 2 of n^2 are
on or below the diagonal. The scope of the call says whether nothing is hidden, and whether keys are
given twice for a prefix, of which the first half is seen by every query.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from jaxlm.kernels.filled import ROOM
from jaxlm.kernels.splash import FULL, PREFIX
from jaxlm.plan.hlo.text import Computation, Op
from jaxlm.plan.hlo.traffic import GROUPED

FLOATS = ("bf16", "f32", "f16")
SILENT = (  # calls that multiply nothing
    "AllocateBuffer",
    "ConcatBitcast",
    "AssumeGatherIndicesInBound",
    "Sharding",
    "Async",
    "TopK",
    "SliceId",
    "ZeroCrop",
    "PadToStatic",
    "SliceToDynamic",
    "Sort",
    "xla_ffi",
    "MoveToHost",
    "MoveToDevice",
    "annotate_device_placement",
    "PrepareAsyncCall",
    "SPMDFullToShardShape",
    "SPMDShardToFullShape",
    "GatherScatterIndicesBitpacked",
)


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a plan knows of the model, and a compiled text does not say.

    visible: the share of all pairs of a row's tokens that attention shows; None: a causal half.
    head_size: of a query. expert_width: of an expert on a device. None: not known.
    """

    visible: float | None = None
    head_size: float | None = None
    expert_width: float | None = None


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
