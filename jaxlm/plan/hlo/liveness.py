"""The memory of a compiled step over its course: which arrays are alive when, and what they are.

    timeline = live(parse(compiled.as_text()))
    timeline.peak_bytes, timeline.at_peak       # {(what, module): bytes}
    timeline.points                             # [(place in the step, bytes)]

The module is scheduled: its instructions run in the order of the text. An array is live from the
instruction that makes it to the last one that reads it; names, tuples, loop carries and updates in
place make no array. Arguments and their in-place updates are not counted: they are live all the
time. The total is XLA's own (`jaxlm.plan.memory.live_bytes`); this module says what it consists of,
and agrees within some per cent.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxlm.plan.hlo.parts import module_of, phase_of
from jaxlm.plan.hlo.text import HBM, Computation, Module, Op, Shape

SAVED, GRADIENT = "saved for backward", "gradients"
COPIED, PASSING = "parameters, cast or gathered", "temporaries"
COPIES = ("convert", "copy", "copy-start", "copy-done", "bitcast", "all-gather", "slice-start")


@dataclass
class Buffer:
    """An array in HBM that a computation makes."""

    size: int
    op: Op
    module: str
    born: int
    dies: int
    what: str = PASSING


@dataclass
class Timeline:
    """Bytes alive over a step, and what they are at their most."""

    points: list[tuple[float, int]] = field(default_factory=list)  # (0 to 1, bytes)
    phases: list[tuple[float, str]] = field(
        default_factory=list
    )  # (0 to 1, its name) as they begin
    peak_bytes: int = 0
    at_peak: dict[tuple[str, str], int] = field(default_factory=dict)


def live(module: Module) -> Timeline:
    """The course of the entry computation."""
    course = _Course(module, module.entry, donated=True)
    timeline, places = Timeline(), course.points()
    timeline.points = [(n / max(1, len(places) - 1), size) for n, (size, _, _) in enumerate(places)]
    before = ""
    for n, (_, op, _) in enumerate(places):
        phase = phase_of(op) if op.op_name else before
        phase = "backward" if phase == "recomputation" else phase
        if phase and phase != before:
            timeline.phases.append((n / max(1, len(places) - 1), phase))
            before = phase
    if places:
        timeline.peak_bytes, _, buffers = max(places, key=lambda place: place[0])
        found: dict[tuple[str, str], int] = defaultdict(int)
        for buffer in buffers:
            found[buffer.what, buffer.module] += buffer.size
        timeline.at_peak = dict(sorted(found.items(), key=lambda item: -item[1]))
    return timeline


Refs = list[Buffer | None]  # the arrays of a value, flat; None: not made here, or not in HBM


class _Course:
    """The buffers of one computation."""

    def __init__(self, module: Module, computation: Computation, *, donated: bool) -> None:
        self.module, self.computation = module, computation
        self.values: dict[str, Refs] = {}
        self.buffers: list[Buffer] = []
        for place, op in enumerate(computation.ops):
            if op.opcode not in ("tuple", "get-tuple-element", "bitcast"):
                for name in op.operands:
                    for buffer in self.values.get(name, []):
                        if buffer is not None:
                            buffer.dies = place
            self.values[op.name] = self._value(op, place)
            if op.opcode == "while":
                self._name_carried(op)
        for buffer in self.values.get(computation.root.name, []):
            if buffer is not None and donated:
                buffer.size = 0  # written over an argument
            elif buffer is not None:
                buffer.dies = len(computation.ops)

    def points(self) -> list[tuple[int, Op, list[Buffer]]]:
        """(bytes alive, instruction, the buffers) at each place, loops' bodies run through once."""
        found: list[tuple[int, Op, list[Buffer]]] = []
        born: dict[int, list[Buffer]] = defaultdict(list)
        for buffer in self.buffers:
            born[buffer.born].append(buffer)
        alive: list[Buffer] = []
        for place, op in enumerate(self.computation.ops):
            alive = [b for b in alive if b.dies >= place] + born[place]
            size = sum(b.size for b in alive)
            if op.opcode in ("while", "call", "conditional", "async-start"):
                for name in op.called[1:] if op.opcode == "while" else op.called:
                    inner = _Course(self.module, self.module.computations[name], donated=False)
                    found += [(size + n, o, [*alive, *bs]) for n, o, bs in inner.points()]
            found.append((size, op, list(alive)))
        return found

    def _value(self, op: Op, place: int) -> Refs:
        operands = [self.values.get(name, []) for name in op.operands]
        if op.opcode in ("parameter", "constant", "iota"):
            return [None] * len(op.shapes)
        if op.opcode == "tuple":
            return [ref for refs in operands for ref in refs]
        if op.opcode == "get-tuple-element":
            return self._element(op, operands[0])
        if op.opcode in ("bitcast", "while", "opt-barrier", "reshape", "conditional", "call"):
            same = operands[0] if operands and len(operands[0]) == len(op.shapes) else None
            if same is not None and op.opcode not in ("conditional", "call", "reshape"):
                return list(same)
        if op.opcode.endswith("-done"):
            return self._done(op, operands[0])
        if op.opcode == "dynamic-update-slice":
            return list(operands[0])
        if op.opcode.endswith("-start"):
            return self._start(op, operands, place)
        aliased = self._aliased(op, operands)
        return [
            aliased.get(n, None) if n in aliased else self._new(shape, op, place)
            for n, shape in enumerate(op.shapes)
        ]

    def _new(self, shape: Shape, op: Op, place: int) -> Buffer | None:
        if shape.space != HBM or shape.padded_bytes < 1024:
            return None
        name = module_of(op)
        if name == "other":
            name = self._module_of_users(op)
        buffer = Buffer(shape.padded_bytes, op, name, place, place)
        if _is_copy_of_argument(op, self.computation):
            buffer.what = COPIED
        self.buffers.append(buffer)
        return buffer

    def _name_carried(self, loop: Op) -> None:
        """Names buffers: what a backward loop only reads was saved for it; what it changes becomes
        gradients."""
        if "transpose(" not in loop.op_name:
            return
        body = self.module.computations[loop.called[1]]
        if body.root.opcode != "tuple":
            return
        given = self.computation.by_name[loop.operands[0]]
        if given.opcode != "tuple":
            return
        for index, (name, source) in enumerate(
            zip(body.root.operands, given.operands, strict=True)
        ):
            new = body.by_name[name]
            same = new.opcode == "get-tuple-element" and new.attribute("index") == str(index)
            for buffer in self._behind(source):
                if buffer.what == PASSING:
                    buffer.what = SAVED if same else GRADIENT

    def _behind(self, name: str) -> Iterator[Buffer]:
        """The buffers of a value and of those that it is a copy of, such as one nearer the core."""
        while True:
            yield from (buffer for buffer in self.values.get(name, []) if buffer is not None)
            op = self.computation.by_name[name]
            if op.opcode not in (*COPIES, "slice-done") or not op.operands:
                return
            name = op.operands[0]

    def _module_of_users(self, op: Op, depth: int = 3) -> str:
        """The part of the first that reads an array which has no name of its own."""
        at = [op]
        for _ in range(depth):
            at = [user for one in at for user in self.computation.users[one.name]]
            for user in at:
                name = module_of(user)
                if name != "other" and user.opcode not in ("while", "tuple"):
                    return name
        return "other"

    def _element(self, op: Op, refs: Refs) -> Refs:
        source = self.computation.by_name.get(op.operands[0])
        assert source is not None
        spans = _spans(source.shape_text)
        index = int(op.attribute("index") or 0)
        start, stop = spans[index]
        return refs[start:stop] if stop <= len(refs) else [None] * (stop - start)

    def _start(self, op: Op, operands: list[Refs], place: int) -> Refs:
        if op.opcode == "copy-start":
            return [self._new(op.shapes[0], op, place), *(operands[0] or [None]), None]
        given = [ref for refs in operands for ref in refs]
        if op.opcode == "dynamic-update-slice-start":
            return [*given, *operands[0], None]
        rest = op.shapes[len(given) :]
        return [*given, *(self._new(shape, op, place) for shape in rest)]

    def _done(self, op: Op, refs: Refs) -> Refs:
        start = self.computation.by_name.get(op.operands[0])
        count = len(op.shapes)
        if start is None or not refs:
            return [None] * count
        if op.opcode == "copy-done":
            return refs[:1]
        first = sum(len(self.values.get(name, [])) for name in start.operands)
        found = refs[first : first + count]
        return found if len(found) == count else [None] * count

    def _aliased(self, op: Op, operands: list[Refs]) -> dict[int, Buffer | None]:
        """{element of the result: the operand's buffer that it is written over}"""
        found: dict[int, Buffer | None] = {}
        text = op.attribute("output_to_operand_aliasing") or ""
        for element, operand in re.findall(r"\{(\d*)\}: \((\d+)", text):
            refs = operands[int(operand)] if int(operand) < len(operands) else []
            found[int(element or 0)] = refs[0] if refs else None
        if op.opcode == "fusion" and not found:
            called = self.module.computations[op.called[0]]
            for n, root in enumerate(_roots(called)):
                over = _updated(root, called)
                if over is not None and over < len(operands) and len(operands[over]) == 1:
                    found[n] = operands[over][0]
        return found


def _is_copy_of_argument(op: Op, computation: Computation) -> bool:
    """Whether an array is a parameter of the computation in another dtype, place or shape."""
    while op.opcode in COPIES and op.operands:
        op = computation.by_name[op.operands[0]]
    if op.opcode == "get-tuple-element":
        op = computation.by_name[op.operands[0]]
    return op.opcode == "parameter"


def _roots(called: Computation) -> Iterator[Op]:
    root = called.root
    if root.opcode != "tuple":
        yield root
        return
    for name in root.operands:
        yield called.by_name[name]


def _updated(root: Op, called: Computation) -> int | None:
    """The parameter that a fused update in place writes over."""
    while root.opcode == "bitcast":
        root = called.by_name[root.operands[0]]
    if root.opcode != "dynamic-update-slice":
        return None
    base = called.by_name[root.operands[0]]
    while base.opcode == "bitcast":
        base = called.by_name[base.operands[0]]
    return int(base.operand_text) if base.opcode == "parameter" else None


def _spans(shape_text: str) -> list[tuple[int, int]]:
    """(first, end) of the flat arrays of each element of a tuple, from its text."""
    depth, counts, arrays, begun = 0, [], 0, False
    for match in re.finditer(r"[(){},]|[a-z]\w*\[", shape_text):
        token = match[0]
        if token.endswith("["):
            if depth >= 1 and not _in_layout(shape_text, match.start()):
                arrays, begun = arrays + 1, True
        elif token in "({":
            depth += 1
        elif token in ")}":
            depth -= 1
            if depth == 0 and begun:
                counts.append(arrays)
        elif token == "," and depth == 1 and _at_top(shape_text, match.start()):
            counts.append(arrays)
            arrays, begun = 0, False
    spans, at = [], 0
    for size in counts:
        spans.append((at, at + size))
        at += size
    return spans


def _in_layout(text: str, at: int) -> bool:
    return text.rfind("{", 0, at) > text.rfind("}", 0, at)


def _at_top(text: str, at: int) -> bool:
    """Whether a comma separates elements, and is not within the dims of an array."""
    return text.rfind("[", 0, at) <= text.rfind("]", 0, at)
