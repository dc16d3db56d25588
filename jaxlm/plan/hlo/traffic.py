"""The cost of one instruction, without loops: FLOPs of products, bytes from and to memory.

    product_flops(op, shapes)    # 2 for each multiplication and addition of a dot or convolution
    traffic(op, computation, module)    # bytes read from and written to HBM, and to the host

A TPU's compiler turns products into convolutions, with windows that run over heads and padding
around them; a tap in the padding multiplies nothing and counts nothing, as XLA's own analysis has
it. Of a slice only what it takes is read, of an update only what it writes, within a fusion too; of
rows that experts have room for, by the exchange and the kernels that know of it, what is filled.
Arrays in the chip's own vector memory cost no HBM bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import cache

from jaxlm.kernels.filled import ROOM
from jaxlm.plan.hlo.text import HBM, HOST, Computation, Module, Op, Shape

# Instructions that move nothing: names for what is there, or flow that is counted where it goes.
FREE = {
    "parameter",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "constant",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "add-dependency",
    "domain",
    "async-start",
    "async-update",
    "get-dimension-size",
}
PASSED = ("bitcast", "reshape", "copy", "get-tuple-element")  # the same numbers, within a fusion
FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "Sharding", "Async")
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Kernels of experts' products, which read and write the rows that are there, [M, D], and all of the
# experts' matrices, [E, D, F].
GROUPED = ("ragged-dot", "tgmm")


def product_flops(op: Op, operands: Callable[[str], Shape]) -> float:
    """FLOPs of a dot or a convolution; `operands` gives the shape of a name."""
    if op.opcode == "dot":
        left = operands(op.operands[0])
        contracted = _dims(op.attribute("lhs_contracting_dims"))
        return 2.0 * op.shapes[0].size * math.prod(left.dims[d] for d in contracted)
    if op.opcode == "convolution":
        return _convolution(op, operands(op.operands[0]), operands(op.operands[1]))
    return 0.0


def _convolution(op: Op, left: Shape, right: Shape) -> float:
    labels = re.match(r"(\w+)_(\w+)->(\w+)", op.attribute("dim_labels") or "")
    assert labels is not None, f"{op.name}: a convolution without dim_labels"
    lhs, rhs, out = labels[1], labels[2], labels[3]
    window = _window(op.attribute("window") or "")
    result = op.shapes[0].dims
    spatial = [c for c in out if c.isdigit()]
    taps = 1.0
    for c in spatial:
        n = int(c)
        own = {name: values[n] if n < len(values) else None for name, values in window.items()}
        pad = [int(x) for x in (own.get("pad") or "0_0").split("_")]
        taps *= valid_taps(
            size=left.dims[lhs.index(c)],
            out=result[out.index(c)],
            window=right.dims[rhs.index(c)],
            stride=int(own.get("stride") or 1),
            before=pad[0],
            lhs_dilate=int(own.get("lhs_dilate") or 1),
            rhs_dilate=int(own.get("rhs_dilate") or 1),
        )
    batch = result[out.index("b")]
    features, inputs = result[out.index("f")], right.dims[rhs.index("i")]
    return 2.0 * batch * features * inputs * taps


@cache
def valid_taps(
    *, size: int, out: int, window: int, stride: int, before: int, lhs_dilate: int, rhs_dilate: int
) -> int:
    """(output, window) places of one dim that meet an element of the input, not padding."""
    end = (size - 1) * lhs_dilate  # the last place that holds an element
    if lhs_dilate == 1:
        count = 0
        for tap in range(window):  # place = output * stride + tap * rhs_dilate - before in [0, end]
            shift = tap * rhs_dilate - before
            first = max(0, -(shift // stride))
            last = min(out - 1, (end - shift) // stride)
            count += max(0, last - first + 1)
        return count
    return sum(
        0 <= place <= end and place % lhs_dilate == 0
        for tap in range(window)
        for place in range(
            tap * rhs_dilate - before, tap * rhs_dilate - before + out * stride, stride
        )
    )


def traffic(
    op: Op, computation: Computation, module: Module, filled: float = 1.0
) -> tuple[float, float]:
    """(HBM bytes, bytes to or from the host's memory) that one run of an instruction moves.

    `filled`: of the rows of experts that a device has room for, the share that is there.
    """
    if op.opcode in FREE or op.opcode.endswith("-done"):
        return 0.0, 0.0
    if op.opcode == "custom-call" and (_is_free_call(op) or op.name.startswith(ROOM)):
        return 0.0, 0.0
    inputs = [_shapes_of(name, computation) for name in op.operands]
    if op.opcode.startswith("ragged-all-to-all"):  # (rows, room for them, ...): of one side all
        return 2.0 * min(_bytes(shapes, None)[0] for shapes in inputs[:2]), 0.0
    if op.opcode == "custom-call" and op.name.startswith(GROUPED):
        arrays = [shape for shapes in (*inputs, op.shapes) for shape in shapes]
        shares = (filled if len(shape.dims) == 2 else 1.0 for shape in arrays)
        return sum(s * _bytes((x,), None)[0] for s, x in zip(shares, arrays, strict=True)), 0.0
    if op.opcode.endswith("-start") and not op.opcode.startswith(COLLECTIVES):
        return _moved(op, inputs)
    if op.opcode == "fusion":
        called = module.computations[op.called[0]]
        reads = [_read_of(p, called, module) for p in called.parameters]
        moved = [_bytes(shapes, limit) for shapes, limit in zip(inputs, reads, strict=False)]
        moved.append(_written(called.root, called, op.shapes))
    else:
        moved = [_bytes(s, None) for s in _narrowed(op, inputs)]
    return sum(hbm for hbm, _ in moved), sum(host for _, host in moved)


def _is_free_call(op: Op) -> bool:
    return (op.attribute("custom_call_target") or "").strip('"').startswith(FREE_CALLS)


def _narrowed(op: Op, inputs: list[tuple[Shape, ...]]) -> list[tuple[Shape, ...]]:
    """The arrays of an instruction at what they really move."""
    if op.opcode in ("dynamic-slice", "slice", "gather"):
        return [_as(op.shapes, inputs[0]), op.shapes, *inputs[1:]]
    if op.opcode in ("dynamic-update-slice", "scatter"):
        update = inputs[1] if op.opcode == "dynamic-update-slice" else inputs[-1]
        return [_as(update, inputs[0]), update, *inputs[2:]]
    if op.opcode == "send":  # to another slice: read here, and written by the recv of the answer
        return inputs[:1]
    if op.opcode == "recv":
        return [op.shapes[:1]]
    if op.opcode.endswith("-start"):  # a collective: its operands come before its results
        return [*inputs, op.shapes[sum(map(len, inputs)) :] or op.shapes]
    return [*inputs, op.shapes]


def _as(sizes: tuple[Shape, ...], place: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Arrays of these sizes in the memory of those."""
    space = place[0].space if place else HBM
    return tuple(Shape(s.dtype, s.dims, space=space) for s in sizes)


def _moved(op: Op, inputs: list[tuple[Shape, ...]]) -> tuple[float, float]:
    """A copy between memories: one side is read and one written; each counts where it is HBM."""
    if op.opcode == "copy-start":  # (to, from, flag)
        sides = list(op.shapes[:2])
    elif op.opcode == "dynamic-update-slice-start":
        sides = [*inputs[1], *_as(inputs[1], inputs[0])]
    else:  # ((operands), result, flag): what is taken is as large as the result
        result = op.shapes[sum(map(len, inputs)) :][:1]
        sides = [*result, *_as(result, inputs[0])]
    hbm = sum(s.num_bytes for s in sides if s.space == HBM)
    host = max((s.num_bytes for s in sides if s.space == HOST), default=0)
    return float(hbm), float(host)


def _bytes(shapes: tuple[Shape, ...], limit: float | None) -> tuple[float, float]:
    hbm = float(sum(s.num_bytes for s in shapes if s.space == HBM))
    host = float(sum(s.num_bytes for s in shapes if s.space == HOST))
    if limit is None:
        return hbm, host
    return min(hbm, limit), min(host, limit)


def _read_of(
    parameter: Op, called: Computation, module: Module, *, inside: bool = False
) -> float | None:
    """Bytes that a fusion reads of a parameter; None: all of it.

    `inside` another fusion a copy moves nothing, and what is handed on is read as it is used there.
    """
    total = 0.0
    for user in called.users[parameter.name]:
        if (
            user.opcode in ("dynamic-slice", "slice", "gather")
            and user.operands[0] == parameter.name
        ):
            total += user.shapes[0].num_bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name:
            total += 0.0  # in place: what is written counts as the result
        elif user.opcode in PASSED:
            if user.opcode == "copy" and not inside and _handed_on(user, called):
                return None
            inner = _read_of(user, called, module, inside=inside)
            if inner is None:
                return None
            total += inner
        elif user.opcode == "fusion":
            inner_called = module.computations[user.called[0]]
            for place, name in enumerate(user.operands):
                if name == parameter.name:
                    given = inner_called.parameters[place]
                    reads = [_read_of(given, inner_called, module, inside=True)]
                    if _handed_on(given, inner_called):
                        whole = user is called.root and not inside
                        reads.append(
                            None if whole else _read_of(user, called, module, inside=inside)
                        )
                    if None in reads:
                        return None
                    total += sum(read for read in reads if read is not None)
        elif user.opcode == "tuple" or user.opcode.startswith(COLLECTIVES):
            total += 0.0  # handed on as it is; a collective's own bytes are counted with it
        elif user.opcode == "custom-call" and _is_free_call(user):
            total += 0.0
        else:
            return None
    return total


def _handed_on(value: Op, called: Computation) -> bool:
    """Whether a computation gives a value back, as it is."""
    if value is called.root:
        return True
    users = called.users[value.name]
    return any(user.opcode in PASSED and _handed_on(user, called) for user in users)


def _written(root: Op, called: Computation, shapes: tuple[Shape, ...]) -> tuple[float, float]:
    """Bytes that a fusion writes: only the update if in place, nothing for a passed-on value."""
    if root.opcode == "tuple":
        parts = [called.by_name[name] for name in root.operands if name in called.by_name]
        if len(parts) != len(shapes):
            return _bytes(shapes, None)
        found = [
            _written(part, called, (shape,)) for part, shape in zip(parts, shapes, strict=True)
        ]
        return sum(h for h, _ in found), sum(h for _, h in found)
    if root.opcode in ("bitcast", "copy-done") and root.operands:
        return _written(called.by_name[root.operands[0]], called, shapes)
    if root.opcode == "parameter" or root.opcode.startswith(COLLECTIVES):
        return 0.0, 0.0
    if root.opcode == "custom-call" and _is_free_call(root):
        return 0.0, 0.0
    if root.opcode == "dynamic-update-slice":
        update = _shapes_of(root.operands[1], called)
        return _bytes(_as(update, shapes), None)
    return _bytes(shapes, None)


def _shapes_of(name: str, computation: Computation) -> tuple[Shape, ...]:
    op = computation.by_name.get(name)
    return op.shapes if op is not None else ()


def _dims(text: str | None) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text or "")]


def _window(text: str) -> Mapping[str, list[str]]:
    """{"size": ["1", "2"], "pad": ["0_0", "1_1"], ...}"""
    found = re.findall(r"(\w+)=([\d_x\-]+)", text)
    return {name: values.split("x") for name, values in found}
