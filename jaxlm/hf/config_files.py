"""config.json and generation_config.json of an export.

    contents = Contents(family, config.model)
    config_files(run, contents, "float32", tokenizer, names)     # {"config.json": ..., ...}

The files that the run was imported with are written again where they still describe the model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxlm.core.config import UserError, type_name
from jaxlm.core.types import ModelConfig
from jaxlm.hf.vocabularies import keep, read_json, special_tokens, to_json
from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.checks import checked
from jaxlm.models.families.shared.head_classes import SEVERAL, TaskClass
from jaxlm.nn.heads.base import TaskHeadConfig
from jaxlm.runs.folder import RunDir

DTYPE_KEYS = ("dtype", "torch_dtype")  # of newer and of older files


@dataclass(frozen=True)
class Contents:
    """The contents of an export: a family's model, and a head for a task where `task` is set."""

    family: Family
    model: Any
    task: TaskClass | None = None
    head: TaskHeadConfig | None = None
    labels: tuple[str, ...] = ()
    several: bool = False  # a row may have several of the labels
    headless: bool = False  # the model has no objective: its class may have no head

    def say(self) -> dict[str, Any]:
        """The values of config.json. Raises `UserError` where it has no place for some part."""
        said = say(self.family, self.model)
        if self.task is not None and self.head is not None:
            said |= self.task.say(self.head, self.labels, self.several)
        return said

    def padding_note(self, tokenizer: Any) -> str | None:
        """A note that transformers differs, as it finds the last token by its id alone."""
        last = getattr(self.head, "pool", None) == "last"
        if not last or tokenizer is None or tokenizer.pad_id != tokenizer.eos_id:
            return None
        return (
            f"pad_token_id is {tokenizer.eos_id}, which also ends a text: transformers scores the "
            "token before it; set another pad_token_id in config.json"
        )

    def is_said(self, values: Mapping[str, Any], names: Collection[str]) -> bool:
        """Whether a config.json, beside a file with these tensors, describes all of it."""
        family, task = self.family, self.task
        architecture = (values.get("architectures") or [None])[0]
        if task is not None:
            if architecture != task.name:
                return False
            head, labels = task.read(values)
            model = family.model_of(task.without_head(values), names)
            several = values.get("problem_type") == SEVERAL
            read = replace(self, model=model, head=head, labels=labels, several=several)
            return read.say() == self.say()
        if architecture not in family.classes or family.task_called(architecture):
            return False
        if self.headless:
            model = family.model_of(values, names)
        else:
            model = family.completed(family.from_hf(values), names)
        return replace(self, model=model).say() == self.say()


def say(family: Family, model: ModelConfig) -> dict[str, Any]:
    """The model as the family's config.json; raises `UserError` where that cannot say it."""
    kinds = {type(preset) for preset in family.presets.values()}
    if kinds and type(model) not in kinds:
        raise UserError(
            f"model.type: {type_name(type(model))} has no place in a config.json of {family.name}; "
            "export as another family (--family)"
        )
    return checked(family.to_hf(model), model, family.from_hf)


def config_files(
    run: RunDir, contents: Contents, dtype: str, tokenizer: Any, names: Collection[str]
) -> dict[str, bytes]:
    """config.json and generation_config.json, by name. `names`: those of the tensors."""
    files = keep(run.originals, ("config.json", "generation_config.json"))
    values = read_json(run.originals / "config.json")
    model = contents.model
    if model.prompt_format is not None and tokenizer is not None:
        form = model.prompt_format.with_start(tokenizer.pad_id)  # which null means
        contents = replace(contents, model=model.replace(prompt=form))
    said = contents.say()
    if contents.is_said(values, names):
        return files | _with_dtype(values, dtype, files)
    ids = {} if tokenizer is None else special_tokens(tokenizer)
    if contents.task is not None and tokenizer is not None:
        ids = {"pad": tokenizer.pad_id, **ids}  # the last token of a padded row is found by it
    # null for an id that the tokenizer lacks: readers have defaults for keys that are left out
    special = {f"{name}_token_id": ids.get(name) for name in ("bos", "eos", "pad")}
    values = {**special, **said, "dtype": dtype, "torch_dtype": dtype}
    files = {"config.json": to_json(values)}
    start = {"decoder_start_token_id": said.get("decoder_start_token_id")}
    told = {key: i for key, i in (special | start).items() if i is not None}
    writes = told and contents.task is None
    return files | ({"generation_config.json": to_json(told)} if writes else {})


def _with_dtype(
    values: Mapping[str, Any], dtype: str, files: Mapping[str, bytes]
) -> dict[str, bytes]:
    """config.json with `dtype` where it states another than that of the files now."""
    wrong = {key: dtype for key in DTYPE_KEYS if values.get(key, dtype) != dtype}
    return {"config.json": to_json({**values, **wrong}) if wrong else files["config.json"]}
