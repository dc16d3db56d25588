"""A run's adapter as a folder that PEFT loads beside the base model.

    export_adapter(Path("runs/lora"), Path("out/lora"), report=print)

What is trained in full is saved whole, by module. jaxlm.json beside PEFT's files names the base by
its SHA-256, for an import here, and the error of the logits that was measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlm.adapters.base import LowRankSettings
from jaxlm.adapters.dora import MAGNITUDE
from jaxlm.adapters.lora import INSIDE, A, B, adapted_modules
from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core.config import UserError, type_name
from jaxlm.core.errors import few
from jaxlm.core.files import read_sealed, write_atomic
from jaxlm.core.tree import flatten
from jaxlm.hf.checking import CHECK, NOTE, check_outputs, computing_in, outputs
from jaxlm.hf.exporting import family_for
from jaxlm.hf.folder import new_folder
from jaxlm.hf.peft.experts import key_of, router_parameter, stacked, to_file
from jaxlm.hf.peft.importing import read_adapter
from jaxlm.hf.peft.layout import Layout, imported_class, layout_of
from jaxlm.hf.peft.modules import Factors, ModuleKernel, joined, trimmed
from jaxlm.hf.peft.settings import CONFIG, WEIGHTS, Settings, compact, to_values
from jaxlm.hf.shards import Header, write_file
from jaxlm.hf.vocabularies import to_json
from jaxlm.models.families.shared.table import write_tensors
from jaxlm.nn.stored_kernel import as_plain
from jaxlm.run import RunConfig, load_saved
from jaxlm.runs.folder import RunDir
from jaxlm.training.base import origin
from jaxlm.training.loading import load_trained, program_on_one_device
from jaxlm.training.program import Program

PREFIX = "base_model.model."
TASK_TYPES = {  # the end of a class's name
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
}
Arrays = dict[str, np.ndarray]


def export_adapter(
    run_dir: Path,
    out: Path,
    *,
    overrides: tuple[str, ...] = (),
    step: int | str | None = None,
    family: str | None = None,
    base: str | None = None,
    check: bool = True,
    report: Callable[[str], None] = print,
) -> str:
    """Makes the folder `out`, whole or not at all; returns a line that says what it holds.

    base: `base_model_name_or_path`; None: where the base was imported from, else its run.

    Raises `UserError` where the run has no adapter, or one that PEFT's format does not hold.
    """
    run = RunDir(run_dir)
    config = load_saved(run_dir, overrides).config
    adapter = None if config.adapter is None else config.adapter.low_rank
    if adapter is None:
        name = None if config.adapter is None else type_name(type(config.adapter))
        has = "no adapter" if name is None else f"the adapter {name}"
        raise UserError(f"{run}: has {has}, but PEFT's files hold lora and dora; use `export hf`")
    mesh = program_on_one_device(config).mesh
    words = (*overrides, *computing_in("float32", config.model))
    config, program, params, step = load_trained(
        str(run_dir), overrides=words, step=step, mesh=mesh, report=report
    )
    layout = layout_of(
        config, program, family_for(run, config.model, family), imported_class(run), report
    )
    reader = CheckpointReader(run.checkpoints, report=report)
    note = {"base": dict(origin(reader, step)), "step": step}
    base = base or _base_name(run, config)
    with new_folder(out) as partial:
        count = write_adapter(partial, layout, adapter, program, params, base)
        if check:
            note[CHECK] = _checked(partial, layout, config, program, params, report)
        write_atomic(partial / NOTE, to_json(note))
    size = (out / WEIGHTS).stat().st_size
    return f"{out}: {count} modules of {layout.class_name}, {size:,} bytes, step {step}"


def write_adapter(
    folder: Path,
    layout: Layout,
    adapter: LowRankSettings,
    program: Program,
    params: Any,
    base: str | None,
) -> int:
    """Writes PEFT's two files; returns how many modules are adapted. Raises `UserError`."""
    flat = {path: np.asarray(x) for path, x in as_plain(flatten(params)).items()}
    found = adapters_of(layout, adapter, flat)
    modules = {name: f for name, f in found.items() if name in layout.modules}
    whole, bias = saved_whole(layout, program, set(modules))
    linear = [parts[0] for n in modules if not _is_table(parts := layout.modules[n])]
    # the names of parameters that a config says, and those of modules
    named = {name: _parameter(layout, name) or name for name in found}
    parameters = compact(
        {name for name in named.values() if name not in modules}, {*layout.tensors, *layout.experts}
    )
    settings = settings_of(
        adapter, {named[n]: f for n, f in found.items()}, base, layout.class_name, parameters
    )
    _check_parameters(adapter, settings)
    values = to_values(
        settings,
        targets=compact(
            modules.keys() & named.values(), {n.removesuffix(".weight") for n in layout.tensors}
        ),
        saved=compact(
            {_module(name) for name in whole} - modules.keys(),
            {_module(name) for name in layout.tensors},
            dotted=False,
        ),
        transposed=any(part.transposed for part in linear),
        bias=bias,
    )
    tensors = tensors_of(layout, found, whole, flat)
    write_atomic(folder / CONFIG, to_json(values))
    headers = {name: Header("float32", x.shape) for name, x in tensors.items()}
    write_file(folder / WEIGHTS, headers, iter(tensors.items()))
    return len(found)


def _parameter(layout: Layout, name: str) -> str | None:
    """The name of the parameter that is adapted, of experts or of a router; None: a module is."""
    if name in layout.experts:
        return name
    return router_parameter(name, layout.modules[name])


def _check_parameters(adapter: LowRankSettings, settings: Settings) -> None:
    """Raises `UserError` for what PEFT does not do with a parameter."""
    lacks = {"dropout": adapter.dropout > 0, "magnitudes (dora)": settings.dora}
    if settings.parameters and (unknown := [name for name, has in lacks.items() if has]):
        raise UserError(
            f"adapter: PEFT has no {few(unknown)} beside an adapter of {few(settings.parameters)}; "
            "leave experts and routers out by adapter.exclude, or use `jaxlm export hf`, which "
            "merges the adapter"
        )


def adapters_of(layout: Layout, adapter: LowRankSettings, flat: Arrays) -> dict[str, Factors]:
    """{module, or parameter of all experts: its adapter} of those that have one. Raises
    `UserError`.
    """
    adapted = adapted_modules(flat)
    settings = adapter.settings(adapted)
    placed: set[str] = set()
    out: dict[str, Factors] = {}
    for name, one in layout.experts.items():
        if placed_here := {p.where for parts in one.experts for p in parts if p.where in adapted}:
            placed |= placed_here
            each = [_of_expert(parts, flat, settings) for parts in one.experts]
            if (all_experts := stacked(each)) is not None:
                out[name] = all_experts
    for name, parts in layout.modules.items():
        if parts[0].is_expert:
            continue
        own: dict[str, Factors] = {}
        norms: Arrays = {}
        for part in parts:
            if part.where in adapted:
                placed.add(part.where)
                own[part.where] = _factors(part, flat, settings[part.where][1])
        if not own:
            continue
        if _is_table(parts) and layout.tied & {part.piece.path for part in parts}:
            raise UserError(
                f"adapter.targets: {parts[0].where} is also the output head, and PEFT changes a "
                "table without the head; leave it out, or use `jaxlm export hf`, which merges"
            )
        if any(factors.m is not None for factors in own.values()):
            norms = {part.where: part.write_m(_norm(part, flat)) for part in parts}
        found = trimmed(joined(parts, own, norms))
        if found is not None:
            out[name] = found
    if homeless := sorted(set(adapted) - placed):
        raise UserError(
            f"adapter.targets: PEFT has no module for {few(homeless)}; leave them out, or use "
            "`jaxlm export hf`, which merges the adapter"
        )
    if not out:
        raise UserError("adapter: has no rank that is not 0; there is nothing to export")
    return out


def _of_expert(
    parts: Sequence[ModuleKernel], flat: Arrays, settings: Mapping[str, tuple[int, float]]
) -> Factors:
    adapted = [part.where for part in parts if f"{part.where}/{INSIDE}/{A}" in flat]
    own = {p.where: _factors(p, flat, settings[p.where][1]) for p in parts if p.where in adapted}
    if any(factors.m is not None for factors in own.values()):
        raise UserError(
            f"adapter.targets: {few(adapted)} are kernels of experts, which have no magnitude in "
            "PEFT; leave them out by adapter.exclude, or use `jaxlm export hf`, which merges"
        )
    return joined(parts, own, {})


def _factors(part: ModuleKernel, flat: Arrays, scale: float) -> Factors:
    a, b = (flat[f"{part.where}/{INSIDE}/{x}"][part.piece.index] for x in (A, B))
    change = flat.get(f"{part.where}/{INSIDE}/{MAGNITUDE}")
    m = None if change is None else part.write_m(_norm(part, flat) + change[part.piece.index])
    return Factors(part.write_a(a), part.write_b(b), scale, m)


def _norm(part: ModuleKernel, flat: Arrays) -> np.ndarray:
    """||W|| over the inputs, [*outputs]."""
    kernel = flat[part.piece.path][part.piece.index].astype(np.float64)
    return np.sqrt((kernel**2).sum(tuple(range(part.num_inputs)))).astype(np.float32)


def _is_table(parts: list[ModuleKernel]) -> bool:
    return parts[0].piece.path.endswith("/table")


def saved_whole(layout: Layout, program: Program, adapted: set[str]) -> tuple[list[str], str]:
    """(tensors that are trained in full, PEFT's `bias`). Raises `UserError`."""
    trained = flatten(program.trained(program.abstract_params)).keys() - program.added
    apart = {p.piece.path for one in layout.experts.values() for e in one.experts for p in e}
    if experts := sorted(trained & apart):
        raise UserError(
            f"adapter.train: {few(experts)}: experts that are trained in full are not in PEFT's "
            "files; use `jaxlm export hf`, which merges the adapter"
        )
    if tied := sorted(trained & layout.tied):
        raise UserError(
            f"adapter.train: {few(tied)} is also the output head, and PEFT trains a table without "
            "the head; use `jaxlm export hf`, which merges the adapter"
        )
    names = {
        name for name, pieces in layout.tensors.items() if any(p.path in trained for p in pieces)
    }
    biases = {name for name in names if _module(name) in adapted}
    every = {f"{module}.bias" for module in adapted} & layout.tensors.keys()
    if biases - every or (biases and biases != every):
        raise UserError(
            f"adapter.train: {few(sorted(biases))}: PEFT trains all biases of adapted modules or "
            "none of them, and no weights; use `jaxlm export hf`, which merges the adapter"
        )
    modules = {_module(name) for name in names - biases}
    saved = {name for name in layout.tensors if _module(name) in modules}
    return sorted(saved | biases), "lora_only" if biases else "none"


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def settings_of(
    adapter: LowRankSettings,
    modules: Mapping[str, Factors],
    base: str | None,
    class_name: str,
    parameters: Collection[str] = (),
) -> Settings:
    """Rank and alpha that most modules have, and patterns for the others. parameters: the names of
    those of experts and routers.
    """
    plain = Settings(
        dropout=adapter.dropout,
        rslora=adapter.rslora,
        dora=any(f.m is not None for f in modules.values()),
        base=base,
        task_type=next((t for end, t in TASK_TYPES.items() if class_name.endswith(end)), None),
        parameters=tuple(parameters),
    )
    found = {name: (f.rank, plain.alpha_of(f.rank, f.scale)) for name, f in modules.items()}
    rank, alpha = Counter(found.values()).most_common(1)[0][0]
    ranks, alphas = {}, {}
    for key in set(found.values()) - {(rank, alpha)}:
        for end in compact([n for n, other in found.items() if other == key], list(found)):
            if key[0] != rank:
                ranks[end] = key[0]
            if key[1] != alpha:
                alphas[end] = key[1]
    return Settings(
        **{**vars(plain), "rank": rank, "alpha": alpha, "ranks": ranks, "alphas": alphas}
    )


def tensors_of(
    layout: Layout, modules: Mapping[str, Factors], whole: list[str], flat: Arrays
) -> Arrays:
    """adapter_model.safetensors."""
    out: Arrays = {}
    for name, f in modules.items():
        if name in layout.experts:
            key = PREFIX + key_of(layout.experts[name], modules)
            out[f"{key}.lora_A.weight"], out[f"{key}.lora_B.weight"] = to_file(f)
            continue
        key = PREFIX + name
        if _is_table(layout.modules[name]):
            out[f"{key}.lora_embedding_A"], out[f"{key}.lora_embedding_B"] = f.a, f.b
            continue
        out[f"{key}.lora_A.weight"], out[f"{key}.lora_B.weight"] = f.a, f.b
        if f.m is not None:
            out[f"{key}.lora_magnitude_vector"] = f.m
    wanted: dict[str, list[Any]] = {}
    for name in whole:
        for piece in layout.tensors[name]:
            wanted.setdefault(piece.path, []).append(piece)
    for name, array in write_tensors(wanted, flat.__getitem__):
        module, _, leaf = name.rpartition(".")
        out[f"{PREFIX}{module}.{'base_layer.' * (module in modules)}{leaf}"] = array
    return {name: np.ascontiguousarray(x, np.float32) for name, x in sorted(out.items())}


def _base_name(run: RunDir, config: RunConfig) -> str | None:
    """The base that the adapter was imported for, the source of the base, or the base's run."""
    source = config.init.from_
    for folder, key in ((run, "base_model_name_or_path"), (RunDir(source or ""), "source")):
        if source is not None and folder.imported.exists():
            found = read_sealed(folder.imported, "import it again").get(key)
            if found:
                return str(found)
    return source


def _checked(
    folder: Path,
    layout: Layout,
    config: RunConfig,
    program: Program,
    params: Any,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """The files read back, and their logits against the run's."""
    base = as_plain({p: x for p, x in flatten(params).items() if p not in program.added})
    adapter, other, again = read_adapter(folder, layout, config, base, program.mesh)
    with jax.set_mesh(program.mesh):
        want, found = outputs(program, params), outputs(other, again)
    return check_outputs(folder.name, want, found, "float32", report)
