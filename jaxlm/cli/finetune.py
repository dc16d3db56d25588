"""`jaxlm finetune CONFIG init.from=RUN_DIR`: a second stage from the weights of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import Starting
from jaxlm.cli.shared.verb import TRAINING, verb
from jaxlm.core.errors import UserError

if TYPE_CHECKING:
    from jaxlm.core.config import Resolved
    from jaxlm.run import RunConfig


@verb(
    "start a second stage from the weights of a run (init.from=RUN_DIR)",
    section=TRAINING,
    examples=(("finetune configs/finetune/sentiment_en.yaml init.from=runs/quickstart", ""),),
    works=True,
    exit_codes=True,
)
@options.config
@options.accept_changed_data
@options.processes
def command(config: str, overrides: tuple[str, ...], **starting: Unpack[Starting]) -> int:
    """Starts a run with the weights, model and tokenizer of another run, and the data, objective
    and optimizer of the config.
    """
    from jaxlm.cli.shared.training import run_training
    from jaxlm.hf.opened import run_of
    from jaxlm.run import load_run

    def read() -> Resolved[RunConfig]:
        resolved = load_run(config, overrides, run_of)
        if resolved.config.init.from_ is None:
            raise UserError("init.from: is required to fine-tune; add init.from=RUN_DIR")
        return resolved

    return run_training(read, **starting)
