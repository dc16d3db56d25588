"""The text of a compiled XLA module as data: computations, instructions, shapes.

    module = parse(compiled.as_text())
    for op in module.entry.ops:
        op.opcode, op.shapes, op.operands, op.attribute("calls")

Reads what XLA prints of a scheduled module ("HLO text"): one instruction a line, `%name = shape
opcode(operands), attributes`, where a shape is `f32[8,128]{1,0:T(8,128)S(1)}` or a tuple of such.
T(...) are the tiles that the two or so fastest dims are padded to, S(n) the memory space.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

DTYPE_BITS = {
    "pred": 8,
    "s4": 4,
    "u4": 4,
    "s8": 8,
    "u8": 8,
    "s16": 16,
    "u16": 16,
    "s32": 32,
    "u32": 32,
    "s64": 64,
    "u64": 64,
    "f16": 16,
    "bf16": 16,
    "f32": 32,
    "f64": 64,
    "c64": 64,
    "c128": 128,
    "f8e4m3fn": 8,
    "f8e5m2": 8,
    "f8e4m3": 8,
    "f8e4m3b11fnuz": 8,
    "f8e4m3fnuz": 8,
    "f8e5m2fnuz": 8,
    "f8e3m4": 8,
    "f8e8m0fnu": 8,
    "f4e2m1fn": 4,
    "s2": 2,
    "u2": 2,
    "token": 0,
}
HBM, HOST = 0, 5  # memory spaces; 1 is the vector memory on the chip, 2, 4 and 6 hold flags

_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=? ]*)\](?:\{([^{}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_END = re.compile(r'^\}(, execution_thread="[^"]*")?$')
_OP = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_NAME = re.compile(r"%([\w.\-]+)")
_COMMENT = re.compile(r"/\*index=\d+\*/")


@dataclass(frozen=True)
class Shape:
    """One array."""

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...] = ()  # dims from the fastest to the slowest; empty: the usual order
    tile: tuple[int, ...] = ()
    space: int = HBM

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements, without padding."""
        return -(-self.size * DTYPE_BITS.get(self.dtype, 0) // 8)

    @property
    def padded_bytes(self) -> int:
        """Bytes that it takes: the fastest dims filled up to whole tiles."""
        order = self.order or tuple(reversed(range(len(self.dims))))
        sizes = [self.dims[dim] for dim in order]
        for place, tile in enumerate(reversed(self.tile)):
            if place < len(sizes):
                sizes[place] = -(-sizes[place] // tile) * tile
        return -(-math.prod(sizes) * DTYPE_BITS.get(self.dtype, 0) // 8)


@dataclass(eq=False)
class Op:
    """One instruction."""

    name: str
    opcode: str
    shape_text: str
    operand_text: str
    attributes: str
    is_root: bool

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """Its result; of a tuple all arrays, flat."""
        return tuple(read_shapes(self.shape_text))

    @cached_property
    def operands(self) -> tuple[str, ...]:
        return tuple(_NAME.findall(self.operand_text))

    @property
    def is_tuple(self) -> bool:
        return self.shape_text.startswith("(")

    @cached_property
    def called(self) -> tuple[str, ...]:
        """The computations that it runs, in the order of its attributes."""
        names: list[str] = []
        for key in ("calls", "to_apply", "condition", "body"):
            names += _NAME.findall(self.attribute(key) or "")
        for key in ("branch_computations", "called_computations"):
            names += _NAME.findall(self.attribute(key) or "")
        for key in ("true_computation", "false_computation"):
            names += _NAME.findall(self.attribute(key) or "")
        return tuple(names)

    def attribute(self, key: str) -> str | None:
        """The text of an attribute: up to the next one, braces and quotes respected."""
        match = re.search(rf"(?:^|, ){key}=", self.attributes)
        if match is None:
            return None
        return self.attributes[match.end() : _end_of_value(self.attributes, match.end())]

    @cached_property
    def op_name(self) -> str:
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""


@dataclass
class Computation:
    """A named list of instructions, in the order they run."""

    name: str
    ops: list[Op] = field(default_factory=list)

    @cached_property
    def by_name(self) -> dict[str, Op]:
        return {op.name: op for op in self.ops}

    @cached_property
    def parameters(self) -> list[Op]:
        found = [op for op in self.ops if op.opcode == "parameter"]
        return sorted(found, key=lambda op: int(op.operand_text))

    @cached_property
    def root(self) -> Op:
        return next((op for op in self.ops if op.is_root), self.ops[-1])

    @cached_property
    def users(self) -> dict[str, list[Op]]:
        """{name: the instructions that read it}"""
        found: dict[str, list[Op]] = {op.name: [] for op in self.ops}
        for op in self.ops:
            for name in dict.fromkeys(op.operands):
                found.get(name, []).append(op)
        return found


@dataclass
class Module:
    """A whole program."""

    header: str
    computations: dict[str, Computation]
    entry: Computation


def parse(text: str) -> Module:
    """The module of XLA's text."""
    computations: dict[str, Computation] = {}
    entry: Computation | None = None
    current: Computation | None = None
    lines = text.split("\n")
    for line in _joined(lines):
        if current is None:
            match = _HEADER.match(line)
            if match:
                current = Computation(match[2])
                computations[current.name] = current
                if match[1]:
                    entry = current
        elif _END.match(line):
            current = None
        else:
            op = _read_op(line)
            if op is not None:
                current.ops.append(op)
    assert entry is not None, "no ENTRY computation: not the text of a compiled module"
    return Module(lines[0], computations, entry)


def read_shapes(text: str) -> Iterator[Shape]:
    """All arrays in the text of a shape."""
    for dtype, dims, layout in _ARRAY.findall(text):
        sizes = tuple(int(re.sub(r"[^\d]", "", d)) for d in dims.split(",") if d.strip())
        order, _, rest = layout.partition(":")
        tile = re.search(r"T\(([\d,]+)\)", rest)
        space = re.search(r"S\((\d+)\)", rest)
        yield Shape(
            dtype,
            sizes,
            tuple(int(d) for d in order.split(",") if d.isdecimal()),
            tuple(int(d) for d in tile[1].split(",")) if tile else (),
            int(space[1]) if space else HBM,
        )


# ------------------------------------------------------------------------------------------- lines


def _joined(lines: list[str]) -> Iterator[str]:
    """The lines, where those that continue a quoted attribute are joined to their instruction."""
    pending: str | None = None
    for line in lines:
        starts = _END.match(line) or _OP.match(line) or _HEADER.match(line)
        if pending is not None and not starts and line.strip():
            pending += line
            continue
        if pending is not None:
            yield pending
        pending = line if _OP.match(line) else None
        if pending is None:
            yield line
    if pending is not None:
        yield pending


def _read_op(line: str) -> Op | None:
    match = _OP.match(line)
    if match is None:
        return None
    text = _COMMENT.sub("", line)
    start = match.end()
    end = _end_of_value(text, start, stop=" ")
    begin = text.find("(", end)
    close = _closing(text, begin)
    opcode, rest = text[end:begin].strip(), text[close + 1 :].removeprefix(",").strip()
    return Op(match[2], opcode, text[start:end], text[begin + 1 : close], rest, bool(match[1]))


def _end_of_value(text: str, start: int, stop: str = ",") -> int:
    """The end of a value: at `stop` outside of brackets and quotes."""
    depth, quoted, at = 0, False, start
    while at < len(text):
        c = text[at]
        if quoted:
            at += c == "\\"
            quoted = c != '"'
        elif c == '"':
            quoted = True
        elif c in "({[":
            depth += 1
        elif c in ")}]":
            depth -= 1
        elif c == stop and depth == 0:
            return at
        at += 1
    return len(text)


def _closing(text: str, begin: int) -> int:
    """The bracket that closes the one at `begin`."""
    depth = 0
    for at in range(begin, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    return len(text)
