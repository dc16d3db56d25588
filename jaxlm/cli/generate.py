"""`jaxlm generate RUN_DIR`: writes text with a trained model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.sampling import sampling_options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import COUNT, PATH, WHOLE
from jaxlm.cli.shared.verb import USING, verb
from jaxlm.core.errors import UserError

if TYPE_CHECKING:
    from jaxlm.core.sampling import SamplingOptions
    from jaxlm.nn.stored_kernel import StoredAs
    from jaxlm.training.program import Program


@verb(
    "write text with a trained model",
    section=USING,
    examples=(
        ('generate runs/quickstart --prompt "ROMEO. " --temperature 0.5', ""),
        ("generate runs/quickstart --prompt A --prompt B --json", "a line of JSON for each"),
        ("generate runs/quickstart --prompt A --beams 4", "beam search"),
        ('generate runs/quickstart --prompt A --stop "." --repetition-penalty 1.2', ""),
        ('generate runs/chat --prompt "How are you?"', "of a chat run: its answer"),
        ("generate runs/large --prompt A --draft runs/small", "faster, with a small draft model"),
    ),
)
@options.run_dir
@options.overrides
@click.option(
    "--prompt",
    multiple=True,
    help="text to continue; repeat it for a batch; default: an empty text",
)
@click.option(
    "--chat/--no-chat",
    default=None,
    help="a prompt is a user's message, or messages as JSON, in the chat template (default: as the "
    "run's task says)",
)
@click.option("--system", metavar="TEXT", help="with --chat: a system message before each prompt")
@sampling_options
@click.option("--seed", type=COUNT, default=0, metavar="N", help="seed of the sampling (default 0)")
@click.option(
    "--draft",
    type=PATH,
    metavar="RUN_DIR",
    help="a smaller run with the same tokenizer, for speculative decoding; the text is the same",
)
@click.option(
    "--num-drafts",
    type=WHOLE,
    metavar="N",
    help="with --draft: tokens drafted per step (default 4)",
)
@options.weights
@options.step
@options.json
def command(
    run_dir: str,
    overrides: tuple[str, ...],
    prompt: tuple[str, ...],
    chat: bool | None,
    system: str | None,
    seed: int,
    draft: str | None,
    num_drafts: int | None,
    weights: StoredAs | None,
    step: int | str | None,
    as_json: bool,
    sampling: SamplingOptions,
) -> None:
    """Continues one or several prompts with a run's newest checkpoint. A folder in Hugging Face's
    format is imported into the cache once, and used from there.
    """
    from jaxlm.cli.shared.folders import run_folder
    from jaxlm.cli.shared.sampling import check_together
    from jaxlm.data.prompts import asked_as
    from jaxlm.generate import ends_of, ids_of, writer_of
    from jaxlm.run import load_saved
    from jaxlm.runs.files import data_manifest
    from jaxlm.runs.folder import RunDir
    from jaxlm.training.loading import load_trained
    from jaxlm.training.started import saved_tokenizer

    check_together(sampling, draft, num_drafts)
    run_dir = run_folder(run_dir)
    config = load_saved(run_dir, overrides).config
    options = config.sample.asked(sampling, draws=draft is not None)
    if options.num_beams == 1 and "length_penalty" in sampling:
        raise UserError("--length-penalty: needs a beam search; add --beams 4")
    _check_writes(run_dir, config)
    run = RunDir(run_dir)
    tokenizer = saved_tokenizer(run)
    _, program, params, step = load_trained(
        run_dir, overrides=overrides, step=step, weights=weights, report=say
    )
    stored = {} if config.data is None else data_manifest(run)
    ends = asked_as(ends_of(config.data, stored, tokenizer), chat, system)
    ids = ids_of(tokenizer, config.sample.eos_ids, trained=config.data is not None, ends=ends)
    smaller = None
    if draft is not None:
        smaller, own = _drafting(draft, run_dir, tokenizer, program)
        params = (params, own)
    prompts = prompt or ("",)
    writer = writer_of(
        program, options, tokenizer, ids, ends, draft=smaller, num_drafts=num_drafts or 4
    )
    texts = writer(params, prompts, seed=seed)
    if as_json:
        for given, text in zip(prompts, texts, strict=True):
            print(json.dumps({"step": step, "prompt": given, "text": text}, ensure_ascii=False))
    else:
        from jaxlm.cli.shared.texts import print_texts

        print_texts(prompts, texts)


def _check_writes(run_dir: str, config: Any) -> None:
    """Raises `UserError` if a run's model does not generate text."""
    from jaxlm.core.config import type_name

    objective = config.objective
    if why := objective.why_silent(config.model):
        raise UserError(
            f"{run_dir}: its objective is {type_name(type(objective))}, which {why}; use "
            "`jaxlm eval`, or generate from a causal_lm run"
        )


def _drafting(draft: str, run_dir: str, tokenizer: Any, program: Program) -> tuple[Program, Any]:
    """The program of a smaller model that guesses ahead, and that model's parameters."""
    from jaxlm.data.tokenizers.base import ids_sha256
    from jaxlm.run import saved_config
    from jaxlm.runs.folder import RunDir
    from jaxlm.training.loading import load_trained
    from jaxlm.training.started import saved_tokenizer

    folder = saved_config(draft).parent
    if ids_sha256(saved_tokenizer(RunDir(folder))) != ids_sha256(tokenizer):
        raise UserError(
            f"--draft: {draft} has another tokenizer than {run_dir}; "
            "draft with a run of the same tokenizer"
        )
    _, smaller, params, _ = load_trained(draft, mesh=program.mesh, report=say)
    return smaller, params
