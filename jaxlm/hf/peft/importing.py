"""A folder of PEFT and its base as a run with an adapter, to train on, generate with and export.

    import_adapter(Path("downloads/lora"), Path("runs/llama"), Path("runs/lora"), report=print)

The run's checkpoint 0 has what the adapter trains, and names the base run. A base in Hugging Face's
format is imported first, into a run beside the new one. Layers whose ranks differ share the largest
rank: the others have zeros in A and B, which no gradient reaches. Layers of one kernel share an
adapter: under DoRA, one that the folder leaves out has a magnitude, which is trained.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlm.adapters.dora import MAGNITUDE, DoRA
from jaxlm.adapters.lora import INSIDE, A, B, LoRA
from jaxlm.adapters.targets import matches
from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.checkpoint.writer import Checkpointer
from jaxlm.core import config as configs
from jaxlm.core.config import UserError
from jaxlm.core.errors import few
from jaxlm.core.files import read_json, write_atomic, write_sealed
from jaxlm.core.tree import flatten, unflatten
from jaxlm.hf.checking import NOTE, computing_in
from jaxlm.hf.exporting import family_for
from jaxlm.hf.folder import check_new, new_folder, removed_after_error
from jaxlm.hf.importing import import_model
from jaxlm.hf.matching import MODULES, OLDER
from jaxlm.hf.peft.experts import INNER, from_file, keys_of, matched
from jaxlm.hf.peft.layout import Layout, imported_class, layout_of
from jaxlm.hf.peft.modules import Factors, ModuleKernel, cut
from jaxlm.hf.peft.settings import CONFIG, WEIGHTS, Settings, read_settings
from jaxlm.hf.stored import open_file
from jaxlm.run import InitConfig, RunConfig, TrainConfig, load_saved, trajectory
from jaxlm.runs.environment import environment
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import IDENTITY, Identity, Record, kept_files
from jaxlm.training import base as bases
from jaxlm.training.build import program_of
from jaxlm.training.program import Program
from jaxlm.training.started import lacks_tokenizer, saved_tokenizer

PREFIX = "base_model.model."
Arrays = Mapping[str, Any]
ENDS = {  # of a tensor's name -> what it is of a module
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "a",
    ".lora_embedding_B": "b",
    ".lora_magnitude_vector": "m",
    ".lora_magnitude_vector.weight": "m",
}


def import_adapter(
    folder: Path,
    base: Path,
    out: Path,
    overrides: Iterable[str] = (),
    *,
    dtype: str | None = None,
    report: Callable[[str], None] = print,
) -> str:
    """Makes the run `out`, whole or not at all; returns a line that says what it holds.

    base: a run, or a folder in Hugging Face's format. overrides: of the run's config. dtype: that
    of activations and matmuls.

    Raises `UserError` where the adapter is not of this base, or has what is not read.
    """
    # What can be checked without the base is, before the base is imported.
    settings, overrides = read_settings(folder), tuple(overrides)
    read_tensors(folder)
    check_new(out.absolute())
    if (base / "config.yaml").exists() or not (base / "config.json").exists():
        return _import(folder, settings, base, base, out, overrides, dtype, report)
    run = out.with_name(f"{out.name}-base")
    report(import_model(base, run, overrides, dtype=dtype, report=report))
    with removed_after_error(run):
        return _import(folder, settings, run, base, out, overrides, dtype, report)


def _import(
    folder: Path,
    settings: Settings,
    base: Path,
    given: Path,
    out: Path,
    overrides: tuple[str, ...],
    dtype: str | None,
    report: Callable[[str], None],
) -> str:
    """As `import_adapter`, of a base that is a run. given: what errors call it."""
    source = load_saved(base, overrides).config
    if dtype is not None:
        words = computing_in(dtype, source.model)
        source = load_saved(base, (*overrides, *words)).config
    plain = _without_training(source, base, out)
    program = program_of(plain, plain.mesh.build())
    reader = CheckpointReader(RunDir(base).checkpoints, report=report)
    step = reader.choose(None)
    if step is None:
        raise UserError(f"--base: {given}: no checkpoint yet; train it first")
    paths = flatten(program.abstract_params)
    held = bases.read_pretrained(plain, program, paths, reader, step, report=report)
    if getattr(plain.model, "family", None) is None:
        raise UserError(
            f"--base: {given} names no model.family, so no tensor of the adapter has a place in "
            "it; add model.family=NAME (`jaxlm presets` lists them)"
        )
    chosen = family_for(RunDir(base), plain.model, None)
    layout = _fitting_layout(folder, plain, program, chosen, imported_class(RunDir(base)), report)
    adapter, adapted, params = read_adapter(folder, layout, plain, held, program.mesh)
    config = plain.replace(adapter=adapter)
    sha256 = param_sha256(adapted.base(params))
    _check_base(folder, given, sha256)
    named = {"run": config.init.from_, "step": step, "sha256": sha256}
    note = {
        "format": "peft",
        "source": str(folder.absolute()),
        "base_model_name_or_path": settings.base,
    }
    with new_folder(out) as partial:
        trained = adapted.trained(params)
        _write(RunDir(partial), config, RunDir(base), named, note, trained, adapted, report)
    count = sum(x.size for x in jax.tree.leaves(trained))
    return f"{out}: {count:,} trained parameters of {folder}, base: step {step} of {base}"


def _without_training(source: RunConfig, base: Path, out: Path) -> RunConfig:
    """The config of a run that has the model of another, and trains nothing yet."""
    tokenizer = None
    if source.tokenizer is not None:
        saved = {"type": "saved", "path": str(out.absolute() / "tokenizer")}
        tokenizer = configs.parse(
            RunConfig, {**configs.to_dict(source), "tokenizer": saved}
        ).tokenizer
    return source.replace(
        tokenizer=tokenizer,
        data=None,
        optimizer=None,
        adapter=None,
        train=TrainConfig(steps=0),
        evaluators={},
        early_stop=None,
        callbacks=(),
        init=InitConfig(from_=str(base.absolute())),
        run_dir=str(out),
    )


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of an adapter by name, without PEFT's prefix, float32. Raises `UserError` where
    a value is not finite.
    """
    found = {}
    for name, stored in open_file(folder / WEIGHTS).items():
        tensor = found[name.removeprefix(PREFIX)] = stored.astype(np.float32)
        if not np.isfinite(tensor).all():
            raise UserError(f"{folder}: NaN or infinite values in {name}; get the files again")
    return found


def _fitting_layout(
    folder: Path,
    config: RunConfig,
    program: Program,
    family: Any,
    came_as: str | None,
    report: Callable[[str], None],
) -> Layout:
    """The layout under the names of modules that most of the adapter's tensors have."""
    said: list[str] = []
    kinds = ("", MODULES) if family.modules else ("",)
    hows = (None, *(p + o + m for p in ("", "-", "+") for o in ("", OLDER) for m in kinds))
    layouts = [layout_of(config, program, family, came_as, said.append, how) for how in hows]
    wanted = {_split(name)[0].removesuffix(INNER) for name in read_tensors(folder)}
    for line in dict.fromkeys(said):
        report(line)

    def fitting(layout: Layout) -> int:
        known = {name.rpartition(".")[0] for name in layout.tensors}
        return len(wanted & (known | {one.module for one in layout.experts.values()}))

    return max(layouts, key=fitting)


def read_adapter(
    folder: Path, layout: Layout, config: RunConfig, base: Arrays, mesh: Any
) -> tuple[LoRA, Program, dict[str, Any]]:
    """(the adapter, the program with it, all parameters) of a folder for a base.

    base: {path: array} of the model's parameters without an adapter. Raises `UserError`.
    """
    settings = read_settings(folder)
    factors, whole = _parts(folder, layout, settings, base)
    full = {path: np.array(base[path]) for path in _paths_of(layout, whole)}
    for name, tensor in whole.items():
        for piece in layout.tensors[name]:
            full[piece.path][piece.index] = piece.read(tensor)
    by_path: dict[str, dict[tuple[int, ...], Factors]] = {}
    for name, found in factors.items():
        for part, one in _of_kernels(layout, name, found):
            by_path.setdefault(part.where, {})[part.piece.index] = one
    stacked = {where: _stacked(layout, where, found, base) for where, found in by_path.items()}
    adapter = _adapter(settings, layout, stacked, sorted(full))
    program = program_of(config.replace(adapter=adapter), mesh)
    leaves = flatten(program.abstract_params)
    values = {**base, **full}
    for where, (_, _, own) in stacked.items():
        values |= {f"{where}/{INSIDE}/{name}": x for name, x in own.items()}
    assert values.keys() == leaves.keys(), values.keys() ^ leaves.keys()
    return (
        adapter,
        program,
        unflatten(
            {path: jax.device_put(values[path], leaf.sharding) for path, leaf in leaves.items()}
        ),
    )


def _of_kernels(
    layout: Layout, name: str, factors: Factors
) -> Iterator[tuple[ModuleKernel, Factors]]:
    """The kernels of a module, or of a parameter of all experts, with their factors."""
    if name in layout.experts:
        own = layout.experts[name]
        found = from_file(own, factors)
        for number, parts in enumerate(own.experts):
            yield from ((part, found[part.where, number]) for part in parts)
        return
    of_modules = cut(name, layout.modules[name], factors)
    yield from ((part, of_modules[part.where]) for part in layout.modules[name])


def _split(name: str) -> tuple[str, str]:
    """(module, what it is of it) of a tensor; what is saved whole is ""."""
    for end, kind in ENDS.items():
        if name.endswith(end):
            return name.removesuffix(end), kind
    name = name.replace(".modules_to_save.", ".").replace(".base_layer.", ".")
    return name.rpartition(".")[0], ""


def _parts(
    folder: Path, layout: Layout, settings: Settings, base: Arrays
) -> tuple[dict[str, Factors], dict[str, np.ndarray]]:
    """The adapters of modules and of experts' parameters, and the tensors that are saved whole, by
    their names.
    """
    tensors, of_experts = read_tensors(folder), keys_of(layout.experts, settings.parameters)
    found: dict[str, dict[str, np.ndarray]] = {}
    whole, unknown, shapes = {}, [], []
    for name, tensor in tensors.items():
        module, kind = _split(name)
        if kind:
            module = of_experts.get(module, module)
            (found.setdefault(module, {}))[kind] = tensor
            if module not in layout.modules and module not in layout.experts:
                unknown.append(name)
            continue
        plain = f"{module}.{name.rpartition('.')[2]}"
        wanted = layout.tensors.get(plain)
        if wanted is None:
            unknown.append(name)
        else:
            whole[plain] = tensor
            shape = list(wanted[0].file_shape)
            if shape:
                shape[wanted[0].dim] = max(piece.stop for piece in wanted)
            if tensor.shape != tuple(shape):
                shapes.append(f"{name} {list(tensor.shape)}, there {shape}")
    factors, errors = {}, []
    for module, own in found.items():
        is_experts = module in layout.experts
        if module not in layout.modules and not is_experts:
            continue
        if not {"a", "b"} <= own.keys() or (settings.dora and "m" not in own):
            raise UserError(f"{folder}: {module} lacks its A, B or magnitude; get the files again")
        weight = f"{module}.weight"  # a router's, which is a parameter
        rank, scale = settings.of(weight if matched([weight], settings.parameters) else module)
        size = len(own["a"]) // (len(layout.experts[module].experts) if is_experts else 1)
        if size != rank:
            raise UserError(
                f"{folder}: {module} has rank {size}, but {rank} by {CONFIG}; get both "
                "files of one adapter"
            )
        try:
            factors[module] = Factors(own["a"], own["b"], scale, own.get("m"))
            list(_of_kernels(layout, module, factors[module]))
        except UserError as error:
            errors.append(str(error))
    wrong = [f"it has no {few(unknown)}"] if unknown else []
    wrong += [few([*shapes, *errors])] if shapes or errors else []
    if wrong:
        raise UserError(
            f"{folder}: is not an adapter of this {layout.class_name}: {'; '.join(wrong)}; name "
            "its base by --base"
        )
    _check_tables(folder, layout, set(found), whole, base)
    return factors, whole


def _check_tables(
    folder: Path, layout: Layout, adapted: set[str], whole: dict[str, np.ndarray], base: Arrays
) -> None:
    """Takes the tables that PEFT stores beside their adapter out of `whole`.

    Raises `UserError` where one is not the base's, or is the output head as well.
    """
    for module in adapted & layout.modules.keys():
        piece = layout.modules[module][0].piece
        if not piece.path.endswith("/table"):
            continue
        if piece.path in layout.tied:
            raise UserError(
                f"{folder}: {module} is adapted, but is also the output head, which PEFT leaves as "
                "it is; merge the adapter where PEFT is, and import the model by `jaxlm import hf`"
            )
        stored = whole.pop(f"{module}.weight", None)
        if stored is not None and not np.allclose(stored, base[piece.path], atol=1e-2, rtol=1e-2):
            raise UserError(
                f"{folder}: {module}.weight is not that of the base; name its base by --base"
            )


def _paths_of(layout: Layout, whole: Iterable[str]) -> set[str]:
    return {piece.path for name in whole for piece in layout.tensors[name]}


def _stacked(
    layout: Layout, where: str, found: Mapping[tuple[int, ...], Factors], base: Arrays
) -> tuple[int, float, dict[str, np.ndarray]]:
    """(rank, scale, parameters) of a kernel's adapter from those of its layers."""
    parts = [p for parts in layout.modules.values() for p in parts if p.where == where]
    rank = max(len(f.a) for f in found.values())
    scale = next(iter(found.values())).scale
    kernel = base[parts[0].piece.path]
    stack = kernel.shape[: len(parts[0].piece.index)]
    own: dict[str, np.ndarray] = {}
    for part in parts:
        part_shape, n, index = part.piece.shape, part.num_inputs, part.piece.index
        f = found.get(index)
        shapes = {A: (*part_shape[:n], rank), B: (rank, *part_shape[n:]), MAGNITUDE: part_shape[n:]}
        for name, shape in shapes.items():
            own.setdefault(name, np.zeros((*stack, *shape), np.float32))
        if f is None:
            continue
        r = len(f.a)
        own[A][index][..., :r] = part.read_a(f.a)
        own[B][index][:r] = part.read_b(f.b) * np.float32(f.scale / scale)
        if f.m is not None:
            w = np.asarray(kernel[index], np.float64)
            norm = np.sqrt((w**2).sum(tuple(range(n))))
            own[MAGNITUDE][index] = part.read_m(f.m) - norm
    if all(f.m is None for f in found.values()):
        del own[MAGNITUDE]
    return rank, scale, own


def _adapter(
    settings: Settings,
    layout: Layout,
    stacked: Mapping[str, tuple[int, float, Any]],
    full: list[str],
) -> LoRA:
    """The adapter of a run that has these parameters."""
    ranks = {where: rank for where, (rank, _, _) in stacked.items()}
    alphas = {w: settings.alpha_of(rank, scale) for w, (rank, scale, _) in stacked.items()}
    longest = sorted(stacked, key=lambda where: (-len(where), where))  # the first match counts
    own = {p.where for parts in layout.modules.values() for p in parts}
    also = {w for w in own if w not in stacked and any(matches(t, w) for t in stacked)}
    kind = DoRA if settings.dora else LoRA
    rank, alpha = (
        next(iter(ranks.values()), settings.rank),
        next(iter(alphas.values()), settings.alpha),
    )
    return kind(
        rank=rank,
        alpha=alpha,
        rslora=settings.rslora,
        dropout=settings.dropout,
        targets=tuple(sorted(stacked)),
        exclude=tuple(sorted(also)),
        rank_pattern={w: ranks[w] for w in longest} if len(set(ranks.values())) > 1 else {},
        alpha_pattern={w: alphas[w] for w in longest} if len(set(alphas.values())) > 1 else {},
        train=tuple(f"^{path}$" for path in full),
    )


def _check_base(folder: Path, base: Path, sha256: str) -> None:
    """Raises `UserError` where the folder says that its base is another; PEFT's own do not say."""
    try:
        note = read_json(folder / NOTE, "get the adapter again").get("base") or {}
        wanted = note.get("sha256")
    except FileNotFoundError:
        return
    if wanted not in (None, sha256):
        raise UserError(
            f"--base: {base} has SHA-256 {sha256[:12]}, but the adapter in {folder} was trained "
            f"with a base of {wanted[:12]}; name that one"
        )


def _write(
    run: RunDir,
    config: RunConfig,
    base: RunDir,
    named: Mapping[str, Any],
    note: Mapping[str, Any],
    trained: Any,
    program: Program,
    report: Callable[[str], None],
) -> None:
    fingerprint = None
    if not lacks_tokenizer(base):
        tokenizer = saved_tokenizer(base)
        fingerprint = tokenizer.fingerprint()
        tokenizer.save(run.tokenizer)
    identity = Identity.new(tokenizer=fingerprint, data=None)
    identity = dataclasses.replace(identity, frozen={"base": named})
    text = configs.to_yaml(config)
    files = {
        "config.yaml": text.encode(),
        "data.json": b"null",
        IDENTITY: identity.text(0, configs.sha256(trajectory(config))),
    }
    if base.originals.is_dir():
        shutil.copytree(base.originals, run.originals)
    write_sealed(run.environment, environment())
    write_sealed(run.imported, note)
    Record(identity=identity, config=text, files=kept_files(run)).write(run)
    write_atomic(run.config, text)
    saver = Checkpointer(run.checkpoints, config.checkpoint, report=report)
    with jax.set_mesh(program.mesh):
        saved = saver.save(0, {"params": trained}, files, force=True)
    saver.close()
    if not saved:
        raise OSError(saver.status())
