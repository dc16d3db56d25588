"""A run as a folder in Hugging Face's format, which transformers and others load.

    export_run(Path("runs/gpt2"), Path("out/gpt2"), dtype="bfloat16", report=print)

What came in by an import goes out as it came: tensors in their dtypes and names, config.json, the
tokenizer's files. A run that was trained here goes out as the family that its config names, in
float32 where nothing else is said. Parameters are read from the checkpoint by groups that share a
tensor, on the host alone, so an export needs no accelerator and less memory than the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core.config import UserError, type_name
from jaxlm.core.errors import few
from jaxlm.core.files import read_sealed, write_atomic
from jaxlm.core.tree import flatten, unflatten
from jaxlm.core.types import ModelConfig
from jaxlm.hf.folder import new_folder
from jaxlm.hf.matching import Pieces, named, pieces_of, those_of
from jaxlm.hf.shards import Header, write_shards
from jaxlm.hf.vocabularies import FILES, files_of, keep, read_json, special_tokens, to_json
from jaxlm.models.families import family_of
from jaxlm.models.families.base import Family
from jaxlm.models.families.checks import checked
from jaxlm.models.families.table import tensor_shapes, write_tensors
from jaxlm.nn.heads.base import is_of_head
from jaxlm.runs.folder import RunDir
from jaxlm.training.base import params_part
from jaxlm.training.session import (
    lacks_tokenizer,
    load_trained,
    one_device_program,
    saved_tokenizer,
)

MAX_BYTES = 5 * 10**9
DTYPE_KEYS = ("dtype", "torch_dtype")  # of newer and of older files


def export_run(
    run_dir: Path,
    out: Path,
    *,
    overrides: tuple[str, ...] = (),
    step: int | None = None,
    dtype: str | None = None,
    family: str | None = None,
    max_bytes: int = MAX_BYTES,
    report: Callable[[str], None] = print,
) -> str:
    """Makes the folder `out`, whole or not at all; returns a line that says what it holds.

    overrides: of the run's config, such as the folder of an adapter's base.

    Raises `UserError` where the run is none, or no config.json of the family says what it is.
    """
    run = RunDir(run_dir)
    config, program = one_device_program(run_dir)
    reader = CheckpointReader(run.checkpoints, report=report)
    step = reader.choose(step)
    if step is None:
        raise UserError(f"{run}: no checkpoint yet; train it first (`jaxlm resume {run}`)")
    part = params_part(reader, step)
    loaded = None
    if config.adapter is not None:  # its base is another run's: merged, all of it is in memory
        _, program, params, _ = load_trained(
            str(run_dir),
            overrides=overrides,
            step=step,
            mesh=program.mesh,
            merge=True,
            report=report,
        )
        loaded = flatten(params)
        report("the adapter is merged into the weights of its base")
    chosen = _family(run, config.model, family)
    sources = _sources(run, program)
    shapes = {origin: leaf.shape for origin, (_, leaf) in sources.items()}
    pieces, repeats = pieces_of(chosen, config.model, shapes)
    record = _record_of(run, chosen)
    pieces, repeats = (named(p, chosen, record.get("names", "")) for p in (pieces, repeats))
    repeats = those_of(repeats, set(record.get("repeats", ())))
    groups = _groups(pieces, repeats)
    main = dtype or record.get("dtype", "float32")
    others = {} if dtype else record.get("other_dtypes", {})
    headers = {
        name: Header(others.get(name, main), shape)
        for group in groups
        for name, shape in itertools.chain(*(tensor_shapes(p).items() for p in group))
    }
    tokenizer = None if lacks_tokenizer(run) else saved_tokenizer(run)
    # A backbone that got a loss over tokens here has a head, which its config.json does not name.
    headless = type_name(type(config.objective)) == "none"
    files = _config_files(run, chosen, config.model, main, tokenizer, headers, headless)
    files |= _tokenizer_files(run, tokenizer, report)
    if part == "ema":
        report("the averaged weights are exported: the run kept them (optimizer.ema_decay)")
    with new_folder(out) as partial:
        for name, content in files.items():
            (partial / name).parent.mkdir(exist_ok=True)
            write_atomic(partial / name, content)

        def read(paths: Iterable[str]) -> dict[str, Any]:
            chosen = {p: sources[p] for p in paths}
            if loaded is None:
                return _read(reader, step, part, chosen)
            return {p: np.asarray(loaded[own]) for p, (own, _) in chosen.items()}

        arrays = _arrays(groups, headers, read)
        names = write_shards(partial, headers, arrays, max_bytes=max_bytes)
    size = sum(header.nbytes for header in headers.values())
    return f"{out}: {chosen.name}, {size:,} bytes of {main} in {len(names)} files, step {step}"


# --------------------------------------------------------------------------------------- the config


def say(family: Family, model: ModelConfig) -> dict[str, Any]:
    """The model as the family's config.json; raises `UserError` where that cannot say it."""
    kinds = {type(preset) for preset in family.presets.values()}
    if kinds and type(model) not in kinds:
        raise UserError(
            f"model.type: {type_name(type(model))} has no place in a config.json of {family.name}; "
            "export as another family (--family)"
        )
    return checked(family.to_hf(model), model, family.from_hf)


def _family(run: RunDir, model: ModelConfig, name: str | None) -> Family:
    name = name or getattr(model, "family", None)
    if name is None:
        raise UserError(
            f"{run}: its config names no model.family, so there are no names for its tensors; "
            "choose a family with --family (`jaxlm presets` lists them)"
        )
    return family_of(name)


def _config_files(
    run: RunDir,
    family: Family,
    model: Any,
    dtype: str,
    tokenizer: Any,
    names: Collection[str],
    headless: bool,
) -> dict[str, bytes]:
    """config.json and generation_config.json: as they came, where they still say what it is."""
    files = keep(run.originals, ("config.json", "generation_config.json"))
    values = read_json(run.originals / "config.json")
    if model.encodes and model.start_id is None and tokenizer is not None:
        model = model.replace(start_id=tokenizer.pad_id)  # which it means
    said = say(family, model)
    ours = bool(set(values.get("architectures") or ()) & set(family.classes))
    described = family.model_of if headless else lambda v, n: family.completed(family.from_hf(v), n)
    if ours and say(family, described(values, names)) == said:
        return files | _stated(values, dtype, files)
    ids = {} if tokenizer is None else special_tokens(tokenizer)
    # null where there is none, for readers have ids of their own for what is left out
    special = {f"{name}_token_id": ids.get(name) for name in ("bos", "eos", "pad")}
    values = {**special, **said, "dtype": dtype, "torch_dtype": dtype}
    start = {"decoder_start_token_id": said.get("decoder_start_token_id")}
    told = {key: i for key, i in (special | start).items() if i is not None}
    files = {"config.json": to_json(values)}
    return files | ({"generation_config.json": to_json(told)} if told else {})


def _stated(values: Mapping[str, Any], dtype: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """config.json again where it states another dtype than that of the files now."""
    wrong = {key: dtype for key in DTYPE_KEYS if values.get(key, dtype) != dtype}
    return {"config.json": to_json({**values, **wrong}) if wrong else files["config.json"]}


def _tokenizer_files(
    run: RunDir, tokenizer: Any, report: Callable[[str], None]
) -> dict[str, bytes]:
    originals = keep(run.originals, FILES)
    if originals or tokenizer is None:
        if not originals:
            report("the run has no tokenizer, so none is exported")
        return originals
    files = files_of(tokenizer)
    if not files:
        report(f"a {tokenizer.kind} tokenizer has no file in this format; none is exported")
    return files


# -------------------------------------------------------------------------------------- the weights


def _record_of(run: RunDir, family: Family) -> dict[str, Any]:
    """import.json, where the run was imported as this family; as another, its dtype alone."""
    fix = "import the model again into another folder"
    record = read_sealed(run.imported, fix) if run.imported.exists() else {}
    same = record.get("family") == family.name
    return record if same else {key: record[key] for key in ("dtype",) if key in record}


def _sources(run: RunDir, program: Any) -> dict[str, tuple[str, Any]]:
    """{path in a language model: (path in this run, its leaf)}."""
    found = {path: (path, leaf) for path, leaf in flatten(program.abstract_params).items()}
    without = [path for path in found if is_of_head(path)]
    if without:
        raise UserError(
            f"{run}: {few(without)} have no place in a language model's files; export the run "
            "that this one began from"
        )
    return found


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
    reader: CheckpointReader, step: int, part: str, paths: Mapping[str, tuple[str, Any]]
) -> dict[str, np.ndarray]:
    """Parameters of a checkpoint, on the host."""
    host = SingleDeviceSharding(jax.devices("cpu")[0])
    tree = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host)
        for path, leaf in paths.values()
    }
    found = flatten(reader.restore_partial(step, {part: unflatten(tree)})[part])
    return {origin: np.asarray(found[path]) for origin, (path, _) in paths.items()}


def _arrays(
    groups: list[tuple[Pieces, Pieces]],
    headers: Mapping[str, Header],
    read: Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]],
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
