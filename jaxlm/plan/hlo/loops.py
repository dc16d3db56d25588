"""The trip count of a compiled loop: as XLA states it, else from its condition.

A scan becomes `while(i < n)` with i from a constant on, one more each time. XLA writes the count to
the loop's backend_config on some platforms; on others it is read from the condition's comparison,
the start of i in the loop's operands, and its step in the body.
"""

from __future__ import annotations

import re

from jaxlm.plan.hlo.text import Computation, Module, Op

FLIPPED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE", "NE": "NE", "EQ": "EQ"}


def trip_count(op: Op, computation: Computation, module: Module) -> int | None:
    """Runs of the body of a `while` in `computation`; None if unknown."""
    known = re.search(r'"known_trip_count":\{"n":"?(\d+)', op.attributes)
    if known:
        return int(known[1])
    condition = module.computations[op.called[0]]
    compared = _comparison(condition, module)
    if compared is None:
        return None
    index, direction, limit = compared
    start = _start(op, index, computation)
    step = _step(module.computations[op.called[1]], index, module)
    if start is None or not step:
        return None
    if direction in ("LT", "GT", "NE"):
        return (
            max(0, -((start - limit) // step)) if step > 0 else max(0, -((limit - start) // -step))
        )
    if direction in ("LE", "GE"):
        return max(0, (limit - start) // step + 1)
    return None


def _comparison(condition: Computation, module: Module) -> tuple[int, str, int] | None:
    """(the element of the carry, direction, limit) of `element < limit`."""
    root, names = condition.root, None
    if root.opcode == "fusion":
        inner = module.computations[root.called[0]]
        names = {p.name: o for p, o in zip(inner.parameters, root.operands, strict=True)}
        outer, root = condition, inner.root
        lookup = lambda n: outer.by_name.get(names.get(n, "")) or inner.by_name[n]  # noqa: E731
    else:
        lookup = condition.by_name.__getitem__
    if root.opcode != "compare":
        return None
    left, right = (_plain(lookup(name), lookup) for name in root.operands)
    direction = root.attribute("direction") or ""
    if left.opcode == "constant":
        left, right, direction = right, left, FLIPPED[direction]
    if left.opcode != "get-tuple-element" or right.opcode != "constant":
        return None
    limit = _constant(right)
    return None if limit is None else (int(left.attribute("index") or 0), direction, limit)


def _start(op: Op, index: int, computation: Computation) -> int | None:
    carry = computation.by_name.get(op.operands[0])
    if carry is None or carry.opcode != "tuple":
        return None
    first = computation.by_name.get(carry.operands[index])
    if first is None:
        return None
    return _constant(_plain(first, computation.by_name.__getitem__))


def _step(body: Computation, index: int, module: Module) -> int | None:
    if body.root.opcode != "tuple":
        return None
    new = _plain(body.by_name[body.root.operands[index]], body.by_name.__getitem__)
    if new.opcode == "fusion":
        inner = module.computations[new.called[0]]
        root = _plain(inner.root, inner.by_name.__getitem__)
        if root.opcode != "add":
            return None
        found = [_constant(inner.by_name[name]) for name in root.operands]
        outer = {p.name: o for p, o in zip(inner.parameters, new.operands, strict=True)}
        found += [_constant(body.by_name[outer[n]]) for n in root.operands if n in outer]
    elif new.opcode == "add":
        found = [_constant(_plain(body.by_name[n], body.by_name.__getitem__)) for n in new.operands]
    else:
        return None
    return next((value for value in found if value is not None), None)


def _plain(op: Op, lookup: object) -> Op:
    """The instruction whose value a chain of copies copies."""
    while op.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start") and op.operands:
        op = lookup(op.operands[0])  # type: ignore[operator]
    return op


def _constant(op: Op) -> int | None:
    return int(op.operand_text) if op.opcode == "constant" and _whole(op.operand_text) else None


def _whole(text: str) -> bool:
    return text.lstrip("-").isdecimal()
