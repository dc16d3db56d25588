"""A plan as lines for a terminal, as rows for a table file, and the table of a search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jaxlm.plan import devices as facts
from jaxlm.plan.closed_form.setting import schedule_of
from jaxlm.plan.memory import FITS, LIKELY, ROOM, TIGHT, TOO_MUCH
from jaxlm.plan.planning import ANALYTIC, Plan
from jaxlm.plan.search import Candidate

SEARCH_HEAD = (
    "rank",
    "verdict",
    "source",
    "step_s",
    "tokens_per_s_per_chip",
    "mfu_causal",
    "GiB",
    "setting",
)
VERDICTS = {
    FITS: "FITS",
    LIKELY: "LIKELY FITS: an estimate, not called safe",
    TIGHT: "TIGHT: not safe",
    TOO_MUCH: "DOES NOT FIT",
    "unknown": "UNKNOWN: not safe",
}


def render(plan: Plan) -> str:
    """The whole plan as text."""
    sections = [_headline(plan), _memory(plan), _work(plan), _time(plan), _advice(plan)]
    sections.append("\n".join(f"note: {line}" for line in plan.notes))
    return "\n\n".join(part for part in sections if part)


def rows(plan: Plan) -> list[tuple[str, str, str, str]]:
    """(section, name, value, unit): every figure of a plan."""
    return list(_rows(plan))


def tsv(plan: Plan) -> str:
    lines = ["section\tname\tvalue\tunit", *("\t".join(row) for row in rows(plan))]
    return "\n".join(lines) + "\n"


def paragraph(plan: Plan) -> str:
    """A plan that does not fit: how much is missing, what is largest, what to change."""
    memory = plan.memory
    needed = memory.refused.needed if memory.refused is not None else memory.total
    largest = list(memory.by_kind().items())[:3]
    if needed is None:
        over = ""
    elif needed > memory.limit:
        over = f"{gib(needed)} needed, {gib(needed - memory.limit)} too much; "
    else:
        over = f"{gib(needed)} needed, more than the {memory.share:.0%} that leave room to spare; "
    text = f"{over}{gib(memory.limit)} there are on each device. Largest"
    text += "" if memory.refused is None else " (by the analytic model)"
    text += ": " + ", ".join(f"{kind} {gib(size)}" for kind, size in largest) + "."
    if plan.advice:
        text += f" First to try: {' '.join(plan.advice[0].overrides)}."
    else:
        text += " No one or two changes would make room: take more chips, or fewer tokens a step."
    return text


def search_table(found: Sequence[Candidate], plans: Sequence[Plan], count: int = 12) -> str:
    """The ranked table of a search: the plans first, then the analytic model's next."""
    lines = ["\t".join(SEARCH_HEAD)]
    compiled = [plan for plan in plans if plan.source != ANALYTIC]  # the others' rows follow anyway
    for rank, plan in enumerate(compiled, 1):
        fields = [
            str(rank),
            plan.memory.verdict,
            plan.source,
            f"{plan.speed.step:#.4g}",
            f"{plan.speed.tokens_per_second_per_chip:.1f}",
            f"{plan.speed.mfu_causal:.3f}",
            f"{plan.memory.total / 2**30:.1f}",
            setting_text(plan),
        ]
        lines.append("\t".join(fields))
    for rank, c in enumerate(found[:count], 1):
        fields = [
            f"a{rank}" if compiled else str(rank),
            c.verdict,
            "analytic",
            f"{c.step:#.4g}",
            f"{c.speed.tokens_per_second_per_chip:.1f}",
            f"{c.speed.mfu_causal:.3f}",
            f"{c.work.memory.total / 2**30:.1f}",
            c.label,
        ]
        lines.append("\t".join(fields))
    return "\n".join(lines) + "\n"


def setting_text(plan: Plan) -> str:
    model: Any = plan.config.model
    mesh = " ".join(f"{a}={n}" for a, n in plan.mesh.items() if n > 1) or "one device"
    remat = getattr(model, "remat", "none")
    if remat == "named":
        hosted = [f"{n}>host" for n in model.offloaded]
        remat += f" ({', '.join([*model.saved, *hosted])})"
    other = getattr(getattr(model, "encoder", None), "remat", None)
    if other not in (None, model.remat):
        remat += f" (the encoder's {other})"
    count = plan.config.train.accumulation
    text = f"{mesh}, remat {remat}, {count} micro-batch{'es' if count > 1 else ''}"
    attention = getattr(model, "attention", None)
    mesh_config = plan.config.mesh
    more = schedule_of(
        plan.mesh,
        zero=mesh_config.zero,
        repeats=mesh_config.stage_repeats,
        dcn=mesh_config.dcn,
        slices=plan.topology.slices,
        ring=getattr(attention, "context", "") == "ring",
    )
    if getattr(plan.config.optimizer, "offload", False):
        more.append("optimizer on hosts")
    return ", ".join([text, *more])


def gib(size: float) -> str:
    return f"{size / 2**30:,.2f} GiB"


def seconds(value: float) -> str:
    return f"{value:.3f} s" if value >= 1 else f"{value * 1e3:.2f} ms"


def amount(value: float, unit: str) -> str:
    """1.2e13 -> 12 T: decimal prefixes."""
    for scale, prefix in (
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ):
        if value >= scale:
            return f"{value / scale:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


# ---------------------------------------------------------------------------------------- sections


def _headline(plan: Plan) -> str:
    topology = plan.topology
    name = f"{topology}: {topology.num_chips:,} x {topology.chip.label}"
    if topology.num_devices != topology.num_chips:
        name += f" ({topology.num_devices:,} devices)"
    verdict = VERDICTS[plan.memory.verdict]
    lines = [name, setting_text(plan), f"{verdict}  ({plan.source})"]
    if plan.compiled is not None:
        lines[-1] = f"{verdict}  ({plan.source} in {plan.compiled.seconds:.0f} s)"
    if plan.memory.verdict not in ROOM:
        lines.append(paragraph(plan))
    return "\n".join(lines)


def _memory(plan: Plan) -> str:
    memory = plan.memory
    lines = [
        f"memory of a device: {gib(memory.total)} of {gib(memory.limit)}; safe up to "
        f"{memory.share:.0%}"
    ]
    for kind, size, modules in memory_rows(plan):
        lines.append(f"  {kind:36} {size:>12}   {modules}".rstrip())
    return "\n".join(lines)


def memory_rows(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """(kind, size, the largest modules with theirs) of what a device holds, the largest first."""
    memory = plan.memory
    for kind, size in memory.by_kind().items():
        if size < 1e6:
            continue
        inner = sorted(
            (p for p in memory.parts if p.kind == kind and not p.on_host),
            key=lambda p: -p.num_bytes,
        )
        largest = ", ".join(f"{p.module} {gib(p.num_bytes)}" for p in inner[:4] if p.module)
        yield kind, gib(size), largest
    if memory.host:
        yield "on the host, for a device", gib(memory.host), ""


def _work(plan: Plan) -> str:
    load = plan.load
    lines = [
        "one step of a device",
        f"  {'FLOPs':36} {amount(load.flops, 'FLOP'):>12}   "
        + ", ".join(f"{name} {value / max(load.flops, 1):.0%}" for name, value in _largest(plan)),
        f"  {'HBM':36} {amount(load.hbm_bytes, 'B'):>12}",
    ]
    for name, value in wires(plan).items():
        lines.append(f"  {name:36} {amount(value, 'B'):>12}")
    if load.host_bytes:
        lines.append(f"  {'host memory':36} {amount(load.host_bytes, 'B'):>12}")
    return "\n".join(lines)


def _time(plan: Plan) -> str:
    line, speed = plan.roofline, plan.speed
    lines = [f"time of a step: {seconds(line.step)}, bound by {bound(plan)}"]
    for name, value in times(plan).items():
        lines.append(f"  {name:36} {seconds(value):>12}")
    if (own := plan.schedule) is not None:
        lines.append(
            f"  {'estimate of the compiler':36} {seconds(own.step):>12}   with "
            f"{seconds(own.waits)} of waits for the network"
            + (f"; {own.unknown} instructions unknown" if own.unknown else "")
        )
    lines += [
        f"  {'MFU, causal half of attention':36} {speed.mfu_causal:>12.1%}",
        f"  {'MFU, all of attention':36} {speed.mfu_full:>12.1%}",
        f"  {'with what is computed again':36} {speed.hfu:>12.1%}",
        f"  {'tokens/s':36} {speed.tokens_per_second:>12,.0f}   "
        f"{speed.tokens_per_second_per_chip:,.0f} a chip",
    ]
    if speed.days is not None and speed.cost is not None and plan.tokens is not None:
        lines.append(
            f"  {amount(plan.tokens, 'tokens'):36} {speed.days:>12,.2f} days   "
            f"{speed.cost:,.0f} USD at list price or --price"
        )
    return "\n".join(lines)


def _advice(plan: Plan) -> str:
    if not plan.advice:
        return ""
    gain = "would make room" if plan.memory.verdict not in ROOM else "would be faster, and fit"
    lines = [f"what {gain}, by the analytic model"]
    for p in plan.advice:
        lines.append(f"  {' '.join(p.overrides):60} {gib(p.memory):>12} {seconds(p.step):>10}")
    return "\n".join(lines)


def _largest(plan: Plan) -> list[tuple[str, float]]:
    return sorted(plan.by_module.items(), key=lambda item: -item[1])[:5]


def wires(plan: Plan) -> dict[str, float]:
    """Bytes that a device sends, by network, kind and axes."""
    found: dict[str, float] = {}
    for t in plan.load.transfers:
        inner, outer = networks(plan)
        network = inner if t.slices == 1 else f"{inner} and {outer}"
        name = f"{network}: {t.kind} {'+'.join(t.axes)}"
        found[name] = found.get(name, 0.0) + t.wire_bytes
    return {name: size for name, size in sorted(found.items(), key=lambda i: -i[1]) if size > 1e5}


def times(plan: Plan) -> dict[str, float]:
    """The parts of a step's time in seconds; for the networks, the exposed part."""
    line = plan.roofline
    found = {
        "products alone": line.compute,
        "HBM alone": line.hbm,
        "core (larger, part by part)": line.core,
    }
    for name, found_there in zip(networks(plan), (line.ici, line.dcn), strict=True):
        found |= {f"{name} {axes}": t for axes, t in found_there.items() if t > 1e-6}
    if line.host:
        found["host memory"] = line.host
    return found | {"not hidden": line.exposed}


def networks(plan: Plan) -> tuple[str, str]:
    """The names of the networks within a slice or node, and between them."""
    return ("ICI", "DCN") if plan.topology.chip.is_tpu else ("node", "network")


def bound(plan: Plan) -> str:
    """The bottleneck, without which the step would be shorter."""
    names = dict(zip(("ICI", "DCN"), networks(plan), strict=True))
    return names.get(plan.roofline.bound, plan.roofline.bound)


def _rows(plan: Plan) -> Iterator[tuple[str, str, str, str]]:
    yield "plan", "topology", str(plan.topology), ""
    yield "plan", "setting", setting_text(plan), ""
    yield "plan", "source", plan.source, ""
    yield "plan", "verdict", plan.memory.verdict, ""
    yield "plan", "safe", "yes" if plan.safe else "no", ""
    for p in plan.memory.parts:
        name = f"{p.kind}{': ' + p.module if p.module else ''}{' (host)' if p.on_host else ''}"
        yield "memory", name, f"{p.num_bytes:.0f}", "bytes"
    yield "memory", "total", f"{plan.memory.total:.0f}", "bytes"
    yield "memory", "limit", f"{plan.memory.limit:.0f}", "bytes"
    yield "work", "FLOPs", f"{plan.load.flops:.6g}", "FLOP"
    for name, value in plan.by_module.items():
        yield "work", f"FLOPs: {name}", f"{value:.6g}", "FLOP"
    yield "work", "HBM", f"{plan.load.hbm_bytes:.6g}", "bytes"
    yield "work", "host memory", f"{plan.load.host_bytes:.6g}", "bytes"
    for name, value in wires(plan).items():
        yield "work", name, f"{value:.6g}", "bytes"
    for name, value in times(plan).items():
        yield "time", name, f"{value:.6g}", "s"
    s = plan.speed
    yield "time", "step", f"{s.step:.6g}", "s"
    yield "time", "bound", bound(plan), ""
    if plan.schedule is not None:
        yield "time", "step by the compiler's cycles", f"{plan.schedule.step:.6g}", "s"
        yield "time", "its waits for the network", f"{plan.schedule.waits:.6g}", "s"
    yield "speed", "tokens/s", f"{s.tokens_per_second:.6g}", ""
    yield "speed", "tokens/s/chip", f"{s.tokens_per_second_per_chip:.6g}", ""
    yield "speed", "MFU, causal half", f"{s.mfu_causal:.4f}", ""
    yield "speed", "MFU, all of attention", f"{s.mfu_full:.4f}", ""
    yield "speed", "with recomputation", f"{s.hfu:.4f}", ""
    if s.days is not None:
        yield "speed", "days", f"{s.days:.4f}", ""
        yield "speed", "cost", f"{s.cost:.2f}", "USD"
    for name in (
        "HBM_SHARE",
        "NETWORK_SHARE",
        "EXPOSED",
        "SLICE_NETWORK_SHARE",
        "SLICE_WAIT",
        "DEPENDENT",
        "ATTENTION_SHARE",
        "EXPERT_WIDTH",
        "EIGHT_BIT_SHARE",
        "HEAD_SIZE",
    ):
        yield "factor", name, str(getattr(facts, name)), ""
    yield "factor", "matmul share of peak", str(plan.topology.chip.matmul), ""
    yield "factor", "safe share of memory", str(plan.memory.share), ""
