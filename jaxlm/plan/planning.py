"""The plan of a run: memory, work, time, cost, and what to change.

    plan = plan_run(config, Topology.read("v5p:4x4x8"), tokens=1e12)
    plan.memory.verdict, plan.roofline.step, plan.speed.days

For a TPU the step itself is compiled; for a GPU, and with `analytic`, the analytic model answers,
and the plan says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxlm.core.config import UserError
from jaxlm.plan.advice import Proposal, proposals
from jaxlm.plan.closed_form.analytic import Work, analyse
from jaxlm.plan.closed_form.facts import Facts, facts_of
from jaxlm.plan.closed_form.scores import kind_of
from jaxlm.plan.closed_form.setting import Setting, setting_of
from jaxlm.plan.closed_form.stacks import UnknownModel
from jaxlm.plan.compiling import Compiled, OutOfMemory, can_compile, compile_for
from jaxlm.plan.devices import Topology
from jaxlm.plan.hlo.count import Counts
from jaxlm.plan.hlo.kernels import ModelFacts
from jaxlm.plan.hlo.schedule import StepSchedule
from jaxlm.plan.memory import FITS, ROOM, MemoryPlan, of_compiled, of_refused
from jaxlm.plan.mesh_on import mesh_on
from jaxlm.plan.overrides import overrides_of
from jaxlm.plan.roofline import Load, Roofline, Speed, roofline, speed
from jaxlm.plan.search import Candidate, search
from jaxlm.plan.shapes import planned, row_of, seq_len_of, tokens_of
from jaxlm.run import RunConfig
from jaxlm.training.build import program_of

Report = Callable[[str], None]
COMPILED, ANALYTIC = "compiled", "analytic, not compiled"


class Budget(NamedTuple):
    """The values that days and cost are computed from."""

    tokens: float | None  # to train on; None: those of train.steps
    price: float | None  # USD per chip-hour; None: list price


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is known about a run before it starts."""

    config: RunConfig
    topology: Topology
    mesh: Mapping[str, int]
    source: str  # `COMPILED` or `ANALYTIC`
    memory: MemoryPlan
    load: Load
    roofline: Roofline
    speed: Speed
    tokens: float | None
    counts: Counts | None = None  # for a compiled step
    compiled: Compiled | None = None
    schedule: StepSchedule | None = None  # the compiler's own view of the time of an optimized step
    by_module: Mapping[str, float] = field(default_factory=dict)  # FLOPs of a device
    advice: Sequence[Proposal] = ()
    notes: Sequence[str] = ()

    @property
    def safe(self) -> bool:
        """Whether it may be called safe: compiled as it will run, with room to spare."""
        return self.memory.verdict == FITS


def plan_run(
    config: RunConfig,
    topology: Topology,
    *,
    tokens: float | None = None,
    price: float | None = None,
    analytic: bool = False,
    quick: bool = False,
    report: Report = print,
) -> Plan:
    """The plan of a config on a topology.

    `tokens`: the training budget, for days and cost. `price`: USD per chip-hour. `quick`: compile
    without optimizations, in a third of the time: the memory is an estimate, the time is the
    analytic model's.
    Tokens are those of the data, in the budget and per second: an objective's rows may have more
    (blanks and their starts), or a source and a target with fewer.
    Raises `UserError` if the config does not fit the topology.
    """
    config = planned(config)
    mesh = mesh_on(config.mesh, topology)
    facts = _facts(config)
    work = None if facts is None else _analysed(facts, mesh, topology)
    reason = can_compile(topology)
    notes: list[str] = []
    if reason and not analytic:
        notes.append(f"answered by the analytic model: {reason}")
    found: Compiled | OutOfMemory | None = None
    if not analytic and not reason:
        report(f"compiling the train step for {topology} ...")
        found = compile_for(config, topology, quick=quick)
    if work is None and isinstance(found, OutOfMemory):
        raise UserError(
            f"the step has no room: {found.message}; take more chips or smaller batches"
        )
    if work is None and found is None:
        _refuse(config, topology, "--analytic" if analytic else "")
    budget = Budget(tokens, price)
    if isinstance(found, Compiled):
        return _of_compiled(config, topology, mesh, found, facts, work, notes, quick, budget)
    assert facts is not None and work is not None
    memory = work.memory
    if found is not None:
        memory = of_refused(found, work.memory.parts, topology)
        notes.append(
            "the compiler refused the step for its memory: time and work are the analytic model's"
        )
    setting = setting_of(facts, mesh, topology)
    if not topology.chip.is_tpu:
        kinds = [kind_of(k, stack, setting, "gpu") for stack in facts.stacks for k in stack.looks]
        if kinds:
            notes.append(
                f"attention is taken to be {' and '.join(dict.fromkeys(kinds))}, as on a machine "
                f"with jaxlm[cuda] and {topology.chip.label}"
            )
    line = roofline(work.load, topology)
    return Plan(
        config=config,
        topology=topology,
        mesh=mesh,
        source=ANALYTIC,
        memory=memory,
        load=work.load,
        roofline=line,
        speed=_speed(config, topology, line, work.load, facts.step_flops, budget),
        tokens=tokens,
        by_module=work.by_module,
        advice=proposals(facts, setting, topology, memory),
        notes=notes,
    )


def _of_compiled(
    config: RunConfig,
    topology: Topology,
    mesh: Mapping[str, int],
    found: Compiled,
    facts: Facts | None,
    work: Work | None,
    notes: list[str],
    quick: bool,
    budget: Budget,
) -> Plan:
    model = _model_facts(facts, mesh)
    counts = found.counts(model)
    notes += counts.notes
    memory = of_compiled(found, topology, quick=quick)
    load = counts.load
    if quick:
        if work is None:
            raise UserError("--quick: this model's time needs an optimized step; leave it out")
        load = work.load
        notes.append("compiled without optimizations: its memory is a guide, its time analytic")
    line = roofline(load, topology)
    if facts is not None:
        flops, setting = facts.step_flops, setting_of(facts, mesh, topology)
        advice = proposals(facts, setting, topology, memory)
    else:
        own = found.program.step_flops_per_token(seq_len_of(config))
        own *= tokens_of(row_of(config)) / seq_len_of(config)  # a token of data, as the rate is
        flops, advice = (own, own), []
    return Plan(
        config=config,
        topology=topology,
        mesh=mesh,
        source=COMPILED,
        memory=memory,
        load=load,
        roofline=line,
        speed=_speed(config, topology, line, load, flops, budget),
        tokens=budget.tokens,
        counts=counts,
        compiled=found,
        schedule=None if quick else found.schedule(topology, model),
        by_module={name: cost.flops for name, cost in counts.by_module.items() if cost.flops},
        advice=advice,
        notes=notes,
    )


def search_plans(
    config: RunConfig,
    topology: Topology,
    *,
    tokens: float | None = None,
    price: float | None = None,
    analytic: bool = False,
    compile_best: int = 3,
    report: Report = print,
) -> tuple[list[Candidate], list[Plan]]:
    """(all candidates in the analytic model's order, plans of the best), best plan first.

    The plans are compiled where that can be; those that the compiler finds no room for come last.
    """
    config = planned(config)
    facts = _facts(config)
    if facts is None:
        _refuse(config, topology, "--search")
    assert facts is not None
    base = setting_of(
        facts, config.mesh.replace(**_whole(topology)).shape(topology.num_devices), topology
    )
    found = search(facts, topology, base)
    report(f"{len(found)} settings have room by the analytic model")
    plans = []
    for candidate in distinct(found)[:compile_best]:
        report(f"looking at {candidate.label}")
        chosen = overrides_of(candidate, config, topology)
        plans.append(
            plan_run(chosen, topology, tokens=tokens, price=price, analytic=analytic, report=report)
        )
    plans.sort(key=lambda p: (p.memory.verdict not in ROOM, p.speed.step))
    return found, plans


def distinct(found: Sequence[Candidate]) -> list[Candidate]:
    """At most two candidates for each mesh, so that the compiled ones differ."""
    seen: dict[tuple[int, ...], int] = {}
    kept = []
    for candidate in found:
        key = tuple(candidate.setting.mesh.values())
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= 2:
            kept.append(candidate)
    return kept


def _whole(topology: Topology) -> dict[str, Any]:
    """A mesh that takes all devices, for a config whose own mesh is of other hardware."""
    return {
        "stage": 1,
        "data": -1,
        "fsdp": 1,
        "expert": 1,
        "context": 1,
        "tensor": 1,
        "num_devices": None,
    }


def _facts(config: RunConfig) -> Facts | None:
    """None for a model that the analytic model does not know."""
    try:
        return facts_of(config)
    except UnknownModel:
        return None


def _analysed(facts: Facts, mesh: Mapping[str, int], topology: Topology) -> Work:
    from jaxlm.plan.search import divides

    setting: Setting = setting_of(facts, mesh, topology)
    if setting.along(setting.dcn) % topology.slices:
        raise UserError(
            f"mesh.{setting.dcn}: {setting.along(setting.dcn)} parts cannot be divided over "
            f"{topology.slices} slices; make it a multiple of {topology.slices}"
        )
    if not divides(facts, setting):
        program_of(facts.config, _described(facts.config, mesh))  # says what does not divide
    return analyse(facts, setting, topology)


def _described(config: RunConfig, mesh: Mapping[str, int]) -> Any:
    """A mesh of these sizes without devices, for the checks of shapes alone."""
    from jax.sharding import AbstractMesh

    return AbstractMesh(tuple(mesh.values()), tuple(mesh))


def _refuse(config: RunConfig, topology: Topology, word: str) -> None:
    """Raises `UserError` for a model that the analytic model, asked for by `word`, cannot plan."""
    reason = can_compile(topology)
    try:
        facts_of(config)
    except UnknownModel as error:
        what = str(error).rpartition(";")[0]
        fix = "plan it for a TPU topology, such as v5p:4x4x8, where the step is compiled"
        if not reason:
            fix = f"leave out {word}: for {topology} the step itself is compiled"
        elif topology.chip.is_tpu:
            fix = f"the step can be compiled instead, but here {reason}"
        raise UserError(f"{what}; {fix}") from None
    raise AssertionError(reason)


def _model_facts(facts: Facts | None, mesh: Mapping[str, int]) -> ModelFacts:
    """The decoder's share of visible pairs and size of a head, and the narrowest experts."""
    if facts is None:
        return ModelFacts()
    looks = facts.stacks[0].looks
    widths = [
        layers.experts.width(stack.hidden) / mesh.get("tensor", 1)
        for stack in facts.stacks
        for layers in stack.layers
        if layers.experts is not None
    ]
    return ModelFacts(
        visible=looks[0].keys / looks[0].layers / facts.seq_len if looks else None,
        head_size=float(looks[0].head_dims[0]) if looks else None,
        expert_width=min(widths, default=None),
    )


def _speed(
    config: RunConfig,
    topology: Topology,
    line: Roofline,
    load: Load,
    flops: tuple[float, float],
    budget: Budget,
) -> Speed:
    return speed(
        line.step,
        topology,
        tokens_per_step=float(config.train.batch_size * seq_len_of(config)),
        step_flops_per_token=flops,
        device_flops=load.flops,
        tokens=budget.tokens,
        price=budget.price,
    )
