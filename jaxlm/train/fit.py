"""Whether the parts of a run fit one another: what no part can check alone.

    check_fit(config, prepared)        # raises UserError
    check_samples(config, prepared)    # once model and objective are resolved

Everything here is known before a parameter is allocated, so that a mistake costs no training.
"""

from __future__ import annotations

from jaxlm.config import UserError, type_name
from jaxlm.data.prepared import Prepared
from jaxlm.generate import check_prompts, encode_prompt, ends_of
from jaxlm.run import RunConfig, objective_of


def check_fit(config: RunConfig, prepared: Prepared) -> None:
    """Raises `UserError` where model, data and objective do not go together."""
    _check_rows(config, prepared)
    _check_positions(config, prepared)
    _check_carried_state(config, prepared)
    objective_of(config).check_model(config.model)


def _check_rows(config: RunConfig, prepared: Prepared) -> None:
    objective = objective_of(config)
    if objective.row_kind == prepared.row_kind:
        return
    kinds = {"tokens": "running text", "examples": "labelled texts"}
    mends = {
        "tokens": "use data of type text or tokens",
        "examples": "use data of type examples, with a label for each text",
    }
    raise UserError(
        f"objective: {type_name(type(objective))} learns from {kinds[objective.row_kind]} but "
        f"data.type {type_name(type(config.data))} has {kinds[prepared.row_kind]}; "
        f"{mends[objective.row_kind]}, or choose another objective"
    )


def _check_positions(config: RunConfig, prepared: Prepared) -> None:
    limit = config.model.max_positions
    if limit is not None and prepared.seq_len > limit:
        raise UserError(
            f"data.seq_len: rows of {prepared.seq_len} tokens are longer than the model's {limit} "
            f"positions; set data.seq_len to at most {limit}, or raise model.position.max_seq_len"
        )


def _check_carried_state(config: RunConfig, prepared: Prepared) -> None:
    if config.model.carries_state and not prepared.consecutive:
        stream = "data.order: stream, or " if prepared.row_kind == "tokens" else ""
        raise UserError(
            "model.carry_state: state goes from a row to the next one of the same place, but "
            f"consecutive rows are unrelated; set {stream}model.carry_state: false"
        )


def check_samples(config: RunConfig, prepared: Prepared) -> None:
    """Raises `UserError` where the model cannot write the texts that `sample` asks for."""
    sample = config.sample
    if not sample.prompts:
        return
    objective = objective_of(config)
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
