"""`jaxlm serve RUN_DIR`: answers to requests over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import WHOLE
from jaxlm.cli.shared.verb import USING, verb

if TYPE_CHECKING:
    from jaxlm.nn.stored_kernel import StoredAs


@verb(
    "answer requests over HTTP",
    section=USING,
    works=True,
    examples=(
        ("serve runs/sentiment_en", "then POST /predict"),
        ("serve runs/chat --port 8080", "then POST /v1/chat/completions"),
    ),
)
@options.run_dir
@click.option("--host", default="127.0.0.1", metavar="HOST", help="the address (default 127.0.0.1)")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, metavar="N", help="the port")
@click.option(
    "--batch-size",
    type=WHOLE,
    default=16,
    metavar="N",
    help="items of several requests that are answered together (default 16)",
)
@options.weights
@options.step
def command(
    run_dir: str,
    host: str,
    port: int,
    batch_size: int,
    weights: StoredAs | None,
    step: int | str | None,
) -> None:
    """Serves predictions at /predict, and texts at /v1/completions and /v1/chat/completions in the
    format of OpenAI's API, until it is stopped. A folder in Hugging Face's format is imported into
    the cache once, and used from there.
    """
    from jaxlm.api.run import load
    from jaxlm.core.optional import need

    uvicorn = need("uvicorn", "serve", "jaxlm serve")
    from jaxlm.serving.app import application

    run = load(run_dir, step=step, weights=weights)
    if run.program.objective.why_silent(run.config.model):
        run.predictor(batch_size)  # raises an error for a run that predicts nothing either
    say(f"{run_dir}: step {run.step}, at http://{host}:{port}")
    uvicorn.run(application(run, batch_size=batch_size), host=host, port=port, log_level="warning")
