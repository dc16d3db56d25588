"""What a compiled step sends, array by array, and the least that its sharding can do with.

    known = Known(facts, setting, topology)  # `tests.pods.known`
    pieces = pieces_of(counts)               # of each collective the arrays, one by one
    sent, beyond = as_least(pieces, known)   # by (kind, axes), and by exception

The least is `jaxlm.plan.closed_form.transfers` with `least`. Where the compiler sends more on its
own account, an exception of `BEYOND` knows the arrays and says what would do instead; all other
bytes have to be the least's. `unexpected_gathers` names arrays that are gathered and should not be.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from jaxlm.optim.adafactor import Adafactor
from jaxlm.plan.hlo.collectives import wire_bytes
from jaxlm.plan.hlo.count import Counts
from jaxlm.plan.hlo.text import DTYPE_BITS, Shape
from tests.pods.known import FSDP, LANES, Known, plain

Key = tuple[str, tuple[str, ...]]  # (kind, axes)
MIB = 2**20
SMALL = MIB // 4  # bytes sent in a step of sums and gathers of numbers, which no closed form counts
TILE = (8, LANES)  # of float32
CONTEXT = ("context",)
CAST = "gathered before the cast, x2"


@dataclass(frozen=True)
class Piece:
    """One array of a collective, over all its runs."""

    kind: str
    axes: tuple[str, ...]
    shape: Shape  # that a device puts in
    bytes: float  # that a device sends

    def __str__(self) -> str:
        dims = ",".join(map(str, self.shape.dims))
        size = f"{self.bytes / MIB:.1f} MiB"
        return f"{self.kind} over {'+'.join(self.axes)} of {self.shape.dtype}[{dims}], {size}"


def pieces_of(counts: Counts) -> list[Piece]:
    """The arrays of every collective, by their share of its bytes."""
    found = []
    for c in counts.collectives:
        kind, axes = c.kind.removeprefix("ragged-"), tuple(sorted(c.axes))
        whole = sum(shape.num_bytes for shape in c.given)
        for shape in c.given:
            found.append(Piece(kind, axes, shape, c.wire_bytes * shape.num_bytes / whole))
    return found


# ---------------------------------------------------------------------- beyond the least, and why

Moved = Mapping[Key, float]


def _summed_for_all(piece: Piece, known: Known) -> Moved | None:
    if (piece.kind, piece.axes) != ("all-reduce", FSDP):
        return None
    dims, dtype = plain(piece.shape.dims), piece.shape.dtype
    if dtype not in known.gradients.get(dims, ()):
        return None
    whole = known.size("fsdp") == known.topology.devices_per_slice
    return {("reduce-scatter", FSDP): piece.bytes / 2} if whole or dims in known.narrow else None


def _experts_whole(piece: Piece, known: Known) -> Moved | None:
    if (piece.kind, piece.axes) != ("all-reduce", FSDP) or piece.shape.dtype != known.dtype:
        return None
    is_one = plain(piece.shape.dims) in known.experts(FSDP)
    return {("reduce-scatter", FSDP): piece.bytes / 2} if is_one else None


def _in_turns(piece: Piece, known: Known) -> Moved | None:
    if (piece.kind, piece.axes) != ("collective-permute", FSDP):
        return None
    if piece.shape.dtype != known.dtype or plain(piece.shape.dims) not in known.parts:
        return None
    n = known.size("fsdp")
    return {("reduce-scatter", FSDP): piece.bytes * (n - 1) / (n + 1)}


def _cast_after(piece: Piece, known: Known) -> Moved | None:
    if piece.kind != "all-gather" or piece.shape.dtype != "f32" or known.dtype == "f32":
        return None
    table = piece.axes == FSDP and known.parts.get(plain(piece.shape.dims)) == {known.dtype}
    stream = piece.axes == ("tensor",) and known.is_stream(piece.shape)
    if not (table or stream):
        return None
    narrow = DTYPE_BITS[known.dtype] / DTYPE_BITS["f32"]
    return {(piece.kind, piece.axes): piece.bytes * narrow}


def _aligned(piece: Piece, known: Known) -> Moved | None:
    if (piece.kind, piece.axes) != ("collective-permute", FSDP):
        return None
    dims = plain(piece.shape.dims)
    if piece.shape.dtype == "f32":  # of the head's, as whole tiles
        is_end = piece.shape.dims[-2:] == TILE and piece.shape.size < 1.5 * known.head
        return {} if is_end else None
    if piece.shape.dtype != known.dtype:
        return None
    return {} if any(_longer(dims, part) for part in known.parts) else None


def _longer(dims: tuple[int, ...], part: tuple[int, ...]) -> bool:
    """Whether one dim of a part is longer, by less than half."""
    more, less = (
        list((Counter(x) - Counter(y)).elements()) for x, y in ((dims, part), (part, dims))
    )
    return len(more) == len(less) == 1 and less[0] < more[0] < 1.5 * less[0]


def _whole_together(piece: Piece, known: Known) -> Moved | None:
    others = tuple(axis for axis in piece.axes if axis != "fsdp")
    if piece.kind != "all-reduce" or "fsdp" not in piece.axes or not others:
        return None
    if piece.shape.dtype != known.dtype:
        return None
    if plain(piece.shape.dims) not in known.tables:
        return None
    split, rest = known.size("fsdp"), math.prod(map(known.size, others))
    whole = piece.bytes / wire_bytes("all-reduce", 1.0, split * rest)
    return {
        ("reduce-scatter", FSDP): wire_bytes("reduce-scatter", whole, split),
        ("all-reduce", others): wire_bytes("all-reduce", whole / split, rest),
    }


def _columns_together(piece: Piece, known: Known) -> Moved | None:
    others = tuple(axis for axis in piece.axes if axis != "tensor")
    if "tensor" not in piece.axes or not others or piece.shape.dtype != known.dtype:
        return None
    if piece.kind == "collective-permute" and piece.shape.size == math.prod(known.table(())):
        return {}
    if piece.kind != "all-reduce" or plain(piece.shape.dims) != known.table(("tensor",)):
        return None
    tensor, rest = known.size("tensor"), math.prod(map(known.size, others))
    part = piece.bytes / wire_bytes("all-reduce", 1.0, rest * tensor) / tensor
    return {("all-reduce", others): wire_bytes("all-reduce", part, rest)}


def _experts_wide(piece: Piece, known: Known) -> Moved | None:
    if piece.kind != "all-reduce" or "fsdp" in piece.axes or piece.shape.dtype != "f32":
        return None
    if plain(piece.shape.dims) not in known.experts():
        return None
    narrow = DTYPE_BITS[known.dtype] / DTYPE_BITS["f32"]
    return {(piece.kind, piece.axes): piece.bytes * narrow}


def _factored(piece: Piece, known: Known) -> Moved | None:
    if (piece.kind, piece.axes) != ("all-reduce", FSDP) or piece.shape.dtype != "f32":
        return None
    if not isinstance(known.facts.config.optimizer, Adafactor):
        return None
    return {} if plain(piece.shape.dims) in known.rows_of_parts else None


def _padded(piece: Piece, known: Known) -> Moved | None:
    if (piece.kind, piece.axes) != ("all-reduce", ("stage",)) or known.setting.slices == 1:
        return None
    rows, columns = known.facts.vocab, known.table(())[0]
    if columns >= LANES or piece.shape.size != rows * LANES:
        return None
    if piece.shape.dtype != "f32":  # of the lookup
        return {}
    return {(piece.kind, piece.axes): piece.bytes * columns / LANES}


def _norms_read(piece: Piece, known: Known) -> Moved | None:
    is_norm = piece.shape.dtype == "f32" and piece.shape.dims == (known.facts.hidden,)
    if known.size("stage") == 1 or (piece.kind, piece.axes) != ("all-reduce", FSDP):
        return None
    return {(piece.kind, piece.axes): piece.bytes / 3} if is_norm else None


# name -> what the least sends instead of such an array; None: it is not one
BEYOND: dict[str, Callable[[Piece, Known], Moved | None]] = {
    # libtpu's choice: over all chips of a slice, or where parts are not whole tiles, a gradient is
    # all-reduced, where each device could be sent its part alone; an explicit psum_scatter, too
    "sums by all-reduce for reduce-scatter, x2": _summed_for_all,
    # libtpu's choice of an all-reduce for two reduce-scatters that it runs as one
    "experts summed by all-reduce, x2": _experts_whole,
    # libtpu's choice: a ring in both directions, beside the product, with n + 1 turns for n - 1
    "sums in turns, two too many": _in_turns,
    # libtpu's choice: parts longer than a device keeps, whose ends go on to the next
    "sums of longer parts": _aligned,
    # of a compilation without optimizations, as this one, alone: the cast comes after the gather
    CAST: _cast_after,
    # no one's choice: what the least does not know of
    "adafactor's means along a split dim": _factored,
    # the partitioner's choice: of a table or a bias over all axes of the batch together, where each
    # could keep its part of the columns first
    "a table summed over all of the batch together": _whole_together,
    # the compiler's choice: it casts after the sum what it could cast before
    "experts summed in float32": _experts_wide,
    # the partitioner's choice: with rows split along tensor it sums a table of all the vocabulary,
    # of which each device then keeps or is sent its part
    "a table summed over tensor as well": _columns_together,
    # the partitioner's choice: devices keep columns of a stage's norms, and read a layer's by a sum
    # in the forward pass and again in the backward one, beside that of their gradients
    "a stage's norms read by sums": _norms_read,
    # libtpu's choice: between slices go whole tiles of 128 columns, of which a device has fewer, of
    # the tied table as it is a head's and, which each stage could form by itself, as it is read
    "a table's tiles between slices": _padded,
}


def as_least(pieces: Iterable[Piece], known: Known) -> tuple[dict[Key, float], dict[str, float]]:
    """Bytes by (kind, axes) without what exceptions send more, and by exception that."""
    sent: dict[Key, float] = defaultdict(float)
    beyond: dict[str, float] = defaultdict(float)
    for piece in pieces:
        for name, rule in BEYOND.items():
            moved = rule(piece, known)
            if moved is not None:
                for key, size in moved.items():
                    sent[key] += size
                beyond[name] += piece.bytes - sum(moved.values())
                break
        else:
            sent[piece.kind, piece.axes] += piece.bytes
    return dict(sent), dict(beyond)


def unexpected_gathers(pieces: Iterable[Piece], known: Known) -> list[Piece]:
    """Arrays that are gathered and are not a parameter, nor anything that has to be whole."""
    return [
        p
        for p in pieces
        if p.kind == "all-gather" and p.bytes > SMALL and not _is_expected(p, known)
    ]


def _is_expected(piece: Piece, known: Known) -> bool:
    shape, axes = piece.shape, piece.axes
    if axes == FSDP and shape.dtype in known.parts.get(plain(shape.dims), ()):
        return True
    if _cast_after(piece, known) is not None:
        return True
    if axes == FSDP and shape.dtype == "s32":  # the numbers of tokens whose rows are sent
        setting, stacks = known.setting, known.facts.stacks
        counts = [known.tokens * setting.accumulation, *map(setting.stack_tokens, stacks)]
        return shape.size in [count / setting.rounds for count in counts]
    if shape.dtype != known.dtype:
        return False
    if axes == FSDP:
        return known.is_head_chunk(shape)
    if axes in (("tensor",), ("stage",)):  # sequence parallelism; what the last stage made
        return known.is_stream(shape)
    return axes == CONTEXT and known.is_key(shape)  # without a ring
