"""Checks of whether the parts of a run fit each other, which no part can do alone.

    check_fit(config)                  # raises UserError; before any data is prepared
    check_schedule(config, marks)      # once the number of steps is known
    check_answers(objective, prepared)
    check_samples(config, prepared)    # once model and objective are resolved

Each is called as soon as what it needs is known, so that a mistake costs no tokenising and no
training.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxlm.core.config import Mark, UserError, type_name, where
from jaxlm.core.errors import few
from jaxlm.data.prompts import check_prompts, encode_prompt, ends_of
from jaxlm.data.store.prepared import DataConfig, Prepared
from jaxlm.objectives.base import Objective
from jaxlm.run import RunConfig


def check_fit(config: RunConfig) -> None:
    """Raises `UserError` where model, data and objective do not fit."""
    if config.data is not None:
        _check_rows(config, config.data)
        _check_positions(config, config.data)
        _check_source(config, config.data)
        _check_carried_state(config, config.data)
    config.objective.check(config.model)
    if config.train.embedding_noise and not config.objective.descends:
        raise UserError(
            "train.embedding_noise: the objective counts, and noise has no effect on counts; set "
            "it to 0"
        )
    least, name = config.objective.least_rows, type_name(type(config.objective))
    sizes = {"train": config.train.batch_size, "eval": config.eval.batch_size}
    for key, each in config.evaluators.items():
        if each.computes_loss:
            sizes[f"evaluators.{key}"] = each.batch_size
    for key, size in sizes.items():
        if size is not None and size < least:
            raise UserError(
                f"{key}.batch_size: {size}, but objective {name} compares the rows of a batch; set "
                f"it to {least} or more"
            )


def check_schedule(config: RunConfig, marks: Mapping[str, Mark], epochs: float | None) -> None:
    """Raises `UserError`, with file and line, for a schedule that is longer than the run.

    epochs: what the steps follow from, where they are not the config's own.
    """
    schedule = getattr(config.optimizer, "schedule", None)
    if schedule is None or config.train.steps is None:
        return
    try:
        schedule.build(config.train.steps)
    except UserError as error:
        name = f"optimizer.{str(error).partition(':')[0]}"
        note = "" if epochs is None else f" (train.epochs {epochs:g})"
        raise UserError(f"{where(name, marks)}optimizer.{error}{note}") from None


def _check_rows(config: RunConfig, data: DataConfig) -> None:
    """Raises `UserError` where rows lack a key that the objective needs, or have one that it would
    ignore.
    """
    objective, given = config.objective, data.row_spec()
    name, source = type_name(type(objective)), f"data.type {type_name(type(data))}"
    if missing := [key for key in objective.needs if key not in given]:
        raise UserError(
            f"objective: {name} needs {few(missing)}, and {source} gives {few(given, 9)}; use data "
            "(data.type, data.task) that gives them, or another objective"
        )
    if unused := [key for key in given if key not in (*objective.needs, *objective.uses)]:
        raise UserError(
            f"objective: {name} does not use {few(unused)}, which {source} gives; use an objective "
            "that learns from them, or other data (data.type: text for running text)"
        )


def _check_positions(config: RunConfig, data: DataConfig) -> None:
    limit = config.model.max_positions
    if limit is not None and data.row_length > limit:
        raise UserError(
            f"data.seq_len: rows of {data.row_length} tokens are longer than the model's {limit} "
            f"positions; set data.seq_len to at most {limit}, or raise model.position.max_seq_len"
        )


def _check_source(config: RunConfig, data: DataConfig) -> None:
    """Raises `UserError` where the source texts of rows are longer than the encoder's positions."""
    length, limit = data.row_spec().sizes.get("S"), config.model.max_source_positions
    if length is not None and limit is not None and length > limit:
        raise UserError(
            f"data: source texts of {length} tokens are longer than the encoder's {limit} "
            f"positions; cut them to {limit}, or raise model.encoder.position.max_seq_len"
        )


def _check_carried_state(config: RunConfig, data: DataConfig) -> None:
    if config.model.carries_state and not data.consecutive:
        stream = "data.order: stream, or " if hasattr(data, "order") else ""
        raise UserError(
            "model.carry_state: state goes from a row to the next one of the same place, but "
            f"consecutive rows are unrelated; set {stream}model.carry_state: false"
        )


def check_answers(objective: Objective, prepared: Prepared) -> None:
    """Raises `UserError` where records have no answers and the objective needs them."""
    task, why = prepared.task, objective.why_answers
    if task is not None and not task.has_answers and why is not None:
        raise UserError(
            f"objective: {type_name(type(objective))} {why}, and data.task "
            f"{type_name(type(task))} reads none: the answer column is missing; use a task that "
            "reads it, such as prompt_completion, or grpo with rewards of your own alone"
        )


def check_samples(config: RunConfig, prepared: Prepared) -> None:
    """Raises `UserError` where the model cannot write the texts that `sample` asks for."""
    sample = config.sample
    if not sample.prompts:
        return
    objective = config.objective
    model = config.model
    if why := objective.why_silent(model):
        name = type_name(type(objective))
        raise UserError(f"sample.prompts: the objective {name} {why}; remove them")
    tokenizer = prepared.tokenizer
    ends = ends_of(config.data, prepared.manifest, tokenizer)
    try:
        prompts = [encode_prompt(tokenizer, text, model, ends) for text in sample.prompts]
        check_prompts(prompts, sample.max_tokens, model)
    except UserError as error:
        raise UserError(f"sample.{error}") from None
