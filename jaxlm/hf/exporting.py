"""A run as a folder in Hugging Face's format, which transformers and others load.

    export_run(Path("runs/gpt2"), Path("out/gpt2"), dtype="bfloat16", report=print)

What came in by an import goes out as it came: tensors in their dtypes and names, config.json, the
tokenizer's files. A run that was trained here goes out as the family that its config names, in
float32 where nothing else is said. Parameters are read from the checkpoint by groups that share a
tensor, on the host alone, so an export needs no accelerator and less memory than the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core.config import UserError, type_name
from jaxlm.core.errors import few
from jaxlm.core.files import read_sealed, write_atomic
from jaxlm.core.tree import flatten, unflatten
from jaxlm.core.types import ModelConfig
from jaxlm.hf.checking import CHECK, NOTE, check_outputs, computing_in, outputs
from jaxlm.hf.config_files import Contents, config_files
from jaxlm.hf.folder import new_folder
from jaxlm.hf.importing import read_model
from jaxlm.hf.matching import Pieces, named, pieces_of, those_of
from jaxlm.hf.shards import Header, write_shards
from jaxlm.hf.vocabularies import FILES, files_of, keep, template_files, to_json
from jaxlm.models.families import family_of
from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.head_classes import task_for
from jaxlm.models.families.shared.table import tensor_shapes, write_tensors
from jaxlm.nn.heads.base import is_of_head
from jaxlm.run import RunConfig, load_saved
from jaxlm.runs.folder import RunDir
from jaxlm.training.base import params_part
from jaxlm.training.loading import load_trained, program_on_one_device
from jaxlm.training.started import lacks_tokenizer, saved_tokenizer

MAX_BYTES = 5 * 10**9
Read = Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]]  # {path: shape} -> {path: array}


def export_run(
    run_dir: Path,
    out: Path,
    *,
    overrides: tuple[str, ...] = (),
    step: int | str | None = None,
    dtype: str | None = None,
    family: str | None = None,
    max_bytes: int = MAX_BYTES,
    check: bool = True,
    report: Callable[[str], None] = print,
) -> str:
    """Makes the folder `out`, whole or not at all; returns a line that says what it holds.

    overrides: of the run's config, such as the folder of an adapter's base. check: read back what
    was written, and compare its logits with the run's (`jaxlm.hf.checking`).

    Raises `UserError` where the folder is not a run, or no config.json of the family describes it.
    """
    run = RunDir(run_dir)
    config = load_saved(run_dir, overrides).config
    reader = CheckpointReader(run.checkpoints, report=report)
    step = reader.choose(step)
    if step is None:
        raise UserError(f"{run}: no checkpoint yet; train it first (`jaxlm resume {run}`)")
    part = params_part(reader, step)
    read: Read = partial(_read, reader, step, part)
    if config.adapter is not None:
        read = _merged(run_dir, overrides, config, step, report)
        config = config.replace(adapter=None)
    chosen = family_for(run, config.model, family)
    contents, config = contents_of(chosen, config, report)
    leaves = exported_leaves(config, report)
    groups, headers, main = _layout(run, contents, config.model, leaves, dtype)
    tokenizer = None if lacks_tokenizer(run) else saved_tokenizer(run)
    files = config_files(run, contents, main, tokenizer, headers)
    if note := contents.padding_note(tokenizer):
        report(note)
    files |= _tokenizer_files(run, tokenizer, report)
    if part == "ema":
        report(
            "the averaged weights are exported: the run kept them (optimizer.ema_decay or "
            "optimizer.averaging)"
        )
    with new_folder(out) as made:
        for name, content in files.items():
            (made / name).parent.mkdir(exist_ok=True)
            write_atomic(made / name, content)
        arrays = _arrays(groups, headers, lambda group: read({p: leaves[p] for p in group}))
        names = write_shards(made, headers, arrays, max_bytes=max_bytes)
        if check:
            found = _checked(made, run_dir, overrides, step, main, report)
            write_atomic(made / NOTE, to_json({"step": step, CHECK: found}))
    size = sum(header.nbytes for header in headers.values())
    return f"{out}: {chosen.name}, {size:,} bytes of {main} in {len(names)} files, step {step}"


def family_for(run: RunDir, model: ModelConfig, name: str | None) -> Family:
    """The family that an export names, or that of the model. Raises `UserError`."""
    name = name or getattr(model, "family", None)
    if name is None and model.has_word_vectors:
        raise UserError(
            f"{run}: has vectors of words, for which Hugging Face's format has no place; write "
            f"them by `jaxlm export vectors {run} --out FILE`"
        )
    if name is None and not hasattr(model, "family"):
        kind = type_name(type(model))
        raise UserError(f"{run}: model.type {kind} has no form in Hugging Face's format")
    if name is None:
        raise UserError(
            f"{run}: its config names no model.family, so there are no names for its tensors; "
            "choose a family with --family (`jaxlm presets` lists them)"
        )
    return family_of(name)


def contents_of(
    family: Family, config: RunConfig, report: Callable[[str], None]
) -> tuple[Contents, RunConfig]:
    """The exported contents of a run, and the run's config without what has no place in them."""
    objective = config.objective
    if objective.task_head is None:
        # A backbone that got a loss over tokens here has a head that its config.json does not name.
        return Contents(family, config.model, headless=objective.headless), config
    task = task_for(family.tasks, family.name, objective.task_head)
    model = task.model_of(config.model)
    if model != config.model:
        report(f"left out, as a {task.name} does not have it: what model.head has for other tasks")
    contents = Contents(
        family, model, task, objective.task_head, objective.labels, several=objective.several
    )
    return contents, config.replace(model=model)


def exported_leaves(config: RunConfig, report: Callable[[str], None]) -> dict[str, Any]:
    """The abstract parameters that go out, by path: without what an objective trains beside the
    model, where that is not the head of a task.
    """
    leaves = flatten(program_on_one_device(config).abstract_params)
    if config.objective.task_head is not None:
        return leaves
    if others := sorted(filter(is_of_head, leaves)):
        report(f"left out, as the objective alone uses it: {few(others)}")
    return {path: leaf for path, leaf in leaves.items() if not is_of_head(path)}


def _tokenizer_files(
    run: RunDir, tokenizer: Any, report: Callable[[str], None]
) -> dict[str, bytes]:
    originals = keep(run.originals, FILES)
    if originals or tokenizer is None:
        if not originals:
            report("the run has no tokenizer, so none is exported")
        return originals | template_files(tokenizer, originals)
    files = files_of(tokenizer)
    if not files:
        report(f"a {tokenizer.kind} tokenizer has no file in this format; none is exported")
    return files


def _checked(
    folder: Path,
    run_dir: Path,
    overrides: tuple[str, ...],
    step: int,
    dtype: str,
    report: Callable[[str], None],
) -> dict[str, float]:
    """The folder read back, and its logits against those of the run, with its adapter apart."""
    config, program, params, _ = load_trained(
        str(run_dir),
        overrides=(
            *overrides,
            *computing_in("float32", load_saved(run_dir, overrides).config.model),
        ),
        step=step,
        mesh=program_on_one_device(load_saved(run_dir, overrides).config).mesh,
        report=lambda line: None,
    )
    want = outputs(program, params)
    del params
    words = computing_in("float32", config.model)
    return check_outputs(str(folder), want, outputs(*read_model(folder, words)), dtype, report)


# -------------------------------------------------------------------------------------- the weights


class Layout(NamedTuple):
    """The tensors that are written: by groups, each read by itself; and their dtype."""

    groups: list[tuple[Pieces, Pieces]]
    headers: dict[str, Header]
    dtype: str  # of most


def _layout(
    run: RunDir,
    contents: Contents,
    model: ModelConfig,
    leaves: Mapping[str, Any],
    dtype: str | None,
) -> Layout:
    """The tensors of parameters; what was imported has its names and dtypes again.

    dtype: of all; None: as imported, or else float32.
    """
    family, task = contents.family, contents.task
    pieces, repeats = pieces_of(family, model, {p: x.shape for p, x in leaves.items()}, task)
    record = _record_of(run, family)
    names = record.get("names", task.names if task is not None else "")
    pieces, repeats = (named(p, family, names) for p in (pieces, repeats))
    groups = _groups(pieces, those_of(repeats, set(record.get("repeats", ()))))
    main = dtype or record.get("dtype", "float32")
    others = {} if dtype else record.get("other_dtypes", {})
    headers = {
        name: Header(others.get(name, main), shape)
        for group in groups
        for name, shape in itertools.chain(*(tensor_shapes(p).items() for p in group))
    }
    return Layout(groups, headers, main)


def _record_of(run: RunDir, family: Family) -> dict[str, Any]:
    """import.json, where the run was imported as this family; as another, its dtype alone."""
    fix = "import the model again into another folder"
    record = read_sealed(run.imported, fix) if run.imported.exists() else {}
    same = record.get("family") == family.name
    return record if same else {key: record[key] for key in ("dtype",) if key in record}


def _groups(pieces: Pieces, repeats: Pieces) -> list[tuple[Pieces, Pieces]]:
    """The parameters by those that share a tensor: each group's tensors are of no other's."""
    home: dict[str, list[str]] = {}  # tensor -> the group's paths, one list for all of its tensors
    for path, parts in pieces.items():
        names = {part.name for part in parts}
        lists = {id(home[n]): home[n] for n in names if n in home}
        joined = [p for paths in lists.values() for p in paths] + [path]
        names |= {n for n, paths in home.items() if id(paths) in lists}
        home |= dict.fromkeys(names, joined)
    unique = {id(paths): paths for paths in home.values()}
    return [
        ({p: pieces[p] for p in paths}, {p: repeats[p] for p in paths if p in repeats})
        for paths in unique.values()
    ]


def _read(
    reader: CheckpointReader, step: int, part: str, leaves: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Parameters of a checkpoint, on the host."""
    host = SingleDeviceSharding(jax.devices("cpu")[0])
    tree = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host)
        for path, leaf in leaves.items()
    }
    found = flatten(reader.restore_partial(step, {part: unflatten(tree)})[part])
    return {path: np.asarray(found[path]) for path in leaves}


def _merged(
    run_dir: Path,
    overrides: tuple[str, ...],
    config: RunConfig,
    step: int,
    report: Callable[[str], None],
) -> Read:
    """A reader of parameters with their adapter merged. The base is another run's: all of it is in
    memory.
    """
    mesh = program_on_one_device(config).mesh
    _, _, params, _ = load_trained(
        str(run_dir), overrides=overrides, step=step, mesh=mesh, merge=True, report=report
    )
    report("the adapter is merged into the weights of its base")
    loaded = flatten(params)
    return lambda leaves: {path: np.asarray(loaded[path]) for path in leaves}


def _arrays(
    groups: list[tuple[Pieces, Pieces]],
    headers: Mapping[str, Header],
    read: Read,
) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor in the dtype of its header, in the headers' order."""
    for group, again in groups:
        params = read(group)
        for pieces in (group, again):
            for name, array in write_tensors(pieces, params.__getitem__):
                yield name, _cast(name, array, headers[name].dtype)


def _cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        out = array.astype(np.dtype(dtype))
    if dtype == "float16" and not np.array_equal(np.isfinite(out), np.isfinite(array)):
        raise UserError(
            f"{name}: has values up to {np.abs(array[np.isfinite(array)]).max():.4g}, which "
            "float16 has no room for; use --dtype bfloat16 or float32"
        )
    return out
