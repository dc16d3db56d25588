"""A folder in Hugging Face's format as a run directory: config, tokenizer, checkpoint 0.

    import_model(Path("downloads/gpt2"), Path("runs/gpt2"), ["mesh.fsdp=4"], report=print)

Parameters are float32, as everywhere, and activations and products are of `model.dtype`, whatever
dtype the files have (`--dtype float32` for results as close to transformers' as can be). The dtypes
that the files had are kept in import.json, so that an export gives every byte back. hf/ in the run
keeps config.json and the tokenizer's files as they came. The run has neither data nor an optimizer:
`jaxlm finetune CONFIG init.from=RUN` trains from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from jaxlm.checkpoint.writer import Checkpointer
from jaxlm.core import config as configs
from jaxlm.core.checksums import digest_files
from jaxlm.core.config import Layer, Mark, UserError
from jaxlm.core.errors import few, shown
from jaxlm.core.files import write_atomic, write_sealed
from jaxlm.core.renames import renamed
from jaxlm.core.tree import flatten
from jaxlm.core.types import ModelConfig
from jaxlm.distributed.consensus import decide, processes
from jaxlm.hf.checking import NOTE
from jaxlm.hf.folder import new_folder
from jaxlm.hf.generation import GENERATION, read_generation
from jaxlm.hf.matching import Match, dtypes_of, match_tensors
from jaxlm.hf.reading import check_repeats, read_params
from jaxlm.hf.stored import INDEX, Stored
from jaxlm.hf.token_ids import eos_ids, lacking_ids
from jaxlm.hf.vocabularies import FILES, keep, read_json, read_tokenizer, unkept
from jaxlm.models.families import family_of_architecture
from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.kinds import check_kinds
from jaxlm.models.families.shared.table import tensor_shapes
from jaxlm.models.families.shared.values import Values
from jaxlm.objectives.none import NoObjective
from jaxlm.run import RunConfig, trajectory
from jaxlm.runs.environment import environment
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import IDENTITY, Identity, Record, kept_files
from jaxlm.training.build import program_of
from jaxlm.training.loading import program_on_one_device
from jaxlm.training.program import Program
from jaxlm.training.session import use_compilation_cache

CHUNK_BYTES = 64 << 20  # on the host at a time; less where the files are small
CONFIGS = ("config.json", GENERATION)


@dataclass(frozen=True)
class Source:
    """A folder that was looked at: all of it but the weights."""

    folder: Path
    values: Mapping[str, Any]  # config.json
    family: Family
    model: ModelConfig
    tokenizer: Any | None
    unread: Mapping[str, Any]  # keys of config.json that shape no such model, and their values
    task: Any = None  # the `TaskClass` that it is of; None: a language model
    lacks_head: bool = False  # its class has none over the vocabulary, nor has the file
    backbone: bool = False  # nor is the embedding one by its config.json


def import_model(
    folder: Path,
    out: Path,
    overrides: Iterable[str] = (),
    *,
    dtype: str | None = None,
    report: Callable[[str], None] = print,
    chunk_bytes: int | None = None,
) -> str:
    """Makes the run `out`, whole or not at all; returns a line that says what it holds.

    `dtype` is that of activations and matmuls; `overrides` are as those of a config.
    Raises `UserError` for what is missing, left over or cannot be read.
    """
    source, stored = read_source(folder), Stored.open(folder)
    source = _completed(source, stored)
    config = _run_config(source, out, dtype, overrides)
    use_compilation_cache(config)
    program = program_of(config, config.mesh.build())
    shapes = {path: leaf.shape for path, leaf in flatten(program.abstract_params).items()}
    match = match_tensors(source.family, config.model, shapes, stored, source.task)
    record = _record(source, stored, match)
    _report(source, out, program.model.dtype, stored, match, record, report)
    with new_folder(out) as partial:
        size = chunk_bytes or max(1 << 20, min(CHUNK_BYTES, stored.largest_file // 16))
        check_repeats(stored, match.pieces, match.repeats, chunk_bytes=size)
        params = read_params(stored, match.pieces, program.abstract_params, chunk_bytes=size)
        _write_run(RunDir(partial), config, source, record, params, report)
    count = sum(leaf.size for leaf in flatten(program.abstract_params).values())
    return (
        f"{out}: {source.family.name}, {count:,} parameters of {len(stored.files)} files, "
        f"{record['dtype']} there; "
        + (f"{source.tokenizer.vocab_size} ids" if source.tokenizer else "no tokenizer")
    )


def read_model(folder: Path, overrides: Iterable[str] = ()) -> tuple[Program, dict[str, Any]]:
    """(program, parameters) of a folder, on one device and without a run."""
    source, stored = read_source(folder), Stored.open(folder)
    source = _completed(source, stored)
    config = _run_config(source, folder, None, overrides)
    program = program_on_one_device(config)
    shapes = {path: leaf.shape for path, leaf in flatten(program.abstract_params).items()}
    match = match_tensors(source.family, config.model, shapes, stored, source.task)
    return program, read_params(
        stored, match.pieces, program.abstract_params, chunk_bytes=CHUNK_BYTES
    )


def _completed(source: Source, stored: Stored) -> Source:
    """The source with what the names of its tensors say."""
    said: Any = source.model
    values = source.values if source.task is None else source.task.without_head(source.values)
    model = source.family.model_of(values, stored.tensors)
    lacks_head = source.task is None and source.family.lacks_head(values, stored.tensors)
    backbone = lacks_head and not said.head.tied
    return replace(source, model=model, lacks_head=lacks_head, backbone=backbone)


def read_source(folder: Path) -> Source:
    """The description of a model in its folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: has no config.json; name a folder in Hugging Face's format")
    values = read_json(path)
    read = Values(values)
    family, model = read_config(path, read)
    unread = read.unread(family.idle)
    task = family.task_called(values["architectures"][0])
    return Source(folder, values, family, model, read_tokenizer(folder, values), unread, task)


def read_config(path: Path, values: Mapping[str, Any]) -> tuple[Family, ModelConfig]:
    """The family and the model of a config.json. Given `Values`, these remember what was read."""
    read, values = values, values.plain if isinstance(values, Values) else values
    names = values.get("architectures")
    if not isinstance(names, list) or not names:
        raise UserError(f'{path}: names no architectures; add them, such as ["GPT2LMHeadModel"]')
    if values.get("quantization_config"):
        raise UserError(f"{path}: quantization_config: is not read; bring unquantised weights")
    try:
        check_kinds(values)
        family = family_of_architecture(names[0])
        _check_type(family, values)
        task = family.task_called(names[0])
        return family, family.from_hf(read if task is None else task.without_head(read))
    except UserError as error:
        text = str(error)
        raise UserError(f"{path}: {text.removeprefix('config.json: ')}") from None


def _check_type(family: Family, values: Mapping[str, Any]) -> None:
    """The class and the model type have to name one family, or one of them is of another model."""
    kind, known = values.get("model_type"), family.model_types or (family.name,)
    if kind is not None and kind not in known:
        raise UserError(
            f"config.json: model_type is {shown(kind)}, but {values['architectures'][0]} is of "
            f"type {' or '.join(known)}; correct the one that is wrong"
        )


def _run_config(
    source: Source, out: Path, dtype: str | None, overrides: Iterable[str]
) -> RunConfig:
    """The config of a run that has weights and was never trained here."""
    tokenizer = {"type": "saved", "path": str(out.absolute() / "tokenizer")}
    values: dict[str, Any] = {
        "tokenizer": tokenizer if source.tokenizer else None,
        "data": None,
        "model": configs.to_dict(source.model),
        "objective": _objective(source),
        "optimizer": None,
        "train": {"steps": 0},
        "sample": {
            **read_generation(source.folder)[0],
            "eos_ids": eos_ids(source.folder, source.values, _size(source)),
        },
    }
    if dtype is not None:
        for part in (values["model"], values["model"].get("encoder")):
            if part is not None:
                part["dtype"] = dtype
    mark = Mark(str(source.folder / "config.json"))
    layer = Layer(values, {key: mark for key in values})
    layer.marks["sample"] = Mark(str(source.folder / GENERATION))
    layer.merge(configs.read_overrides(overrides))
    layer = renamed(layer)
    layer.merge(Layer({"run_dir": str(out)}, {"run_dir": Mark("command line")}))
    return configs.parse(RunConfig, layer.values, layer.marks)


def _objective(source: Source) -> dict[str, Any]:
    """The objective that the model was made for, where that is known here."""
    if source.task is not None:
        try:
            head, labels = source.task.read(source.values)
        except UserError as error:
            text = str(error).removeprefix("config.json: ")
            raise UserError(f"{source.folder / 'config.json'}: {text}") from None
        named = {"classes": list(labels)} if labels else {}
        kind = source.task.objective(source.values, head)
        return {"type": kind, "head": configs.to_dict(head), **named}
    made_for = None if source.backbone else source.model.made_for
    return configs.to_dict(NoObjective()) if made_for is None else {"type": made_for}


def _size(source: Source) -> int:
    assert source.model.vocab_size is not None, "every config.json says it"
    return source.model.vocab_size


def _record(source: Source, stored: Stored, match: Match) -> dict[str, Any]:
    """import.json: what an export needs to give every byte back, and where it all came from."""
    repeats = tensor_shapes(match.repeats)
    names = [*tensor_shapes(match.pieces), *repeats]
    dtype, others = dtypes_of(names, stored.tensors)
    files = [*stored.files, *keep(source.folder, (*CONFIGS, INDEX, *FILES))]
    index, count = processes()
    mine = json.dumps(digest_files(source.folder, files[index::count], threads=2))
    text = decide(
        f"hf/{source.folder}/hashes", mine,
        lambda texts: json.dumps(dict(sorted(p for t in texts for p in json.loads(t).items()))),
    )  # fmt: skip
    return {
        "format": "hf",
        "source": str(source.folder.absolute()),
        "family": source.family.name,
        "architecture": source.values["architectures"][0],
        "names": match.names,
        "dtype": dtype,
        "other_dtypes": others,
        "repeats": list(repeats),
        "ignored": match.ignored,
        "tokenizer": source.tokenizer.fingerprint() if source.tokenizer else None,
        "files": {
            name: {"size": size, "sha256": digest}
            for name, (size, digest) in json.loads(text).items()
        },
    }


def _report(
    source: Source,
    out: Path,
    computes: str,
    stored: Stored,
    match: Match,
    record: Mapping[str, Any],
    report: Callable[[str], None],
) -> None:
    """Reports the facts that a user should know before the weights are read."""
    architecture = source.values["architectures"][0]
    dropped = unkept(source.folder, (*CONFIGS, INDEX, NOTE, *FILES, *stored.files))
    if dropped:
        report(f"not kept, so an export will not have them: {few(dropped)}")
    if match.ignored:
        report(f"left out, not of the language model: {few(match.ignored)}")
    if source.unread:
        found = few(f"{key} ({shown(value)})" for key, value in source.unread.items())
        report(f"config.json: left out, as no {architecture} depends on it: {found}")
    if left := read_generation(source.folder)[1]:
        found = few(f"{key} ({shown(value)})" for key, value in left.items())
        report(f"{GENERATION}: left out, not an option of generating here: {found}")
    lacking = lacking_ids(source.folder, source.values, _size(source))
    if lacking:
        report(f"not among the model's {_size(source)} ids, so taken as none: {few(lacking)}")
    if source.backbone:
        report(
            f"{architecture} has no head over the vocabulary: it comes in as a backbone, which "
            f"`jaxlm finetune CONFIG init.from={out}` gives a head, such as that of "
            "objective.type=classification; a loss over tokens takes its embedding as head"
        )
    elif source.lacks_head:
        report(f"{architecture}: the output head is the embedding, to which config.json ties it")
    wide = [name for name, info in stored.tensors.items() if info.dtype == "F64"]
    if wide:
        report(f"rounded from float64 to float32: {few(wide)}")
    if record["dtype"] != computes:
        report(
            f"the files are {record['dtype']}; the model computes in {computes} from float32 "
            "parameters here (--dtype float32 or bfloat16 sets it)"
        )
    size = _size(source)
    if source.tokenizer is None:
        report(f"{source.folder}: has no tokenizer; without one there is no text, only token ids")
    elif source.tokenizer.vocab_size > size:
        report(
            f"the tokenizer has {source.tokenizer.vocab_size} ids but the model {size}; "
            "texts with the others cannot be given to it"
        )


def _write_run(
    run: RunDir,
    config: RunConfig,
    source: Source,
    record: Mapping[str, Any],
    params: Any,
    report: Callable[[str], None],
) -> None:
    tokenizer = source.tokenizer.fingerprint() if source.tokenizer else None
    identity, text = Identity.new(tokenizer=tokenizer, data=None), configs.to_yaml(config)
    files = {
        "config.yaml": text.encode(),
        "data.json": b"null",
        IDENTITY: identity.text(0, configs.sha256(trajectory(config))),
    }
    if processes()[0] == 0:
        run.originals.mkdir()
        for name, content in keep(source.folder, (*CONFIGS, *FILES)).items():
            (run.originals / name).parent.mkdir(exist_ok=True)
            write_atomic(run.originals / name, content)
        if source.tokenizer is not None:
            source.tokenizer.save(run.tokenizer)
        write_sealed(run.environment, environment())
        write_sealed(run.imported, record)
        Record(identity=identity, config=text, files=kept_files(run)).write(run)
        write_atomic(run.config, text)
    saver = Checkpointer(run.checkpoints, config.checkpoint, report=report)
    with jax.set_mesh(next(iter(flatten(params).values())).sharding.mesh):
        saved = saver.save(0, {"params": params}, files, force=True)
    saver.close()
    if not saved:
        raise OSError(saver.status())
