"""Times jaxlm's own steps against each other: LoRA's, bfloat16's, and evaluation's.

    python tools/bench/own_steps.py --json own_steps.json
    python tools/bench/own_steps.py model.hidden_size=384 model.num_layers=6 --pairs LoRA
    python tools/bench/own_steps.py --tiny               # a small model, seconds

Three pairs, on the batches of configs/quickstart.yaml, in turn:

    LoRA        a step that trains rank 8 of every linear layer, against one that trains all
    bfloat16    a step that computes in bfloat16, against one in float32
    evaluation  the validation loss of as many tokens as a step has, against the step
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from sides import arguments, compare, emit

from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.distributed.memory import keep_freed_memory
from jaxlm.evals.evaluators import evaluators_of
from jaxlm.run import load_run
from jaxlm.training import restoring
from jaxlm.training.feed import Feed, batch_spec
from jaxlm.training.session import Session

ROOT = Path(__file__).resolve().parents[2]
ALONE = (
    "run_dir=null",
    "train.epochs=null",
    "train.steps=1000000",
    "eval={baseline: false, batch_size: null}",
    "sample.prompts=[]",
)
LORA = "adapter={type: lora, rank: 8, alpha: 16, targets: [all-linear]}"


class Steps:
    """The compiled step of a config and its state, for one batch of its data again and again."""

    def __init__(self, config: str, *overrides: str) -> None:
        chosen = load_run(config, [*ALONE, *overrides]).config
        self.session = Session.open(chosen, lambda _: None)
        learner = self.session.learner
        assert learner is not None, "a session for training"
        self.learner, self.batch_size = learner, chosen.train.batch_size
        with tempfile.TemporaryDirectory() as empty, jax.set_mesh(learner.mesh):
            reader = CheckpointReader(Path(empty), report=lambda _: None)
            self.state, _ = restoring.find_state(self.session, reader)
        spec = batch_spec(self.session.batch_rows, self.batch_size, learner.mesh)
        self.step = learner.compile(spec)
        with Feed(self.session.train_loader(), learner.mesh, 0, ahead=1) as feed:
            self.data = dict(next(feed)[1])

    @property
    def tokens(self) -> int:
        return self.batch_size * self.session.config.data.seq_len

    def train(self, count: int) -> None:
        learner = self.learner
        with jax.set_mesh(learner.mesh):
            for _ in range(count):
                batch = dict(learner.batch(self.state, learner.frozen, self.data))
                self.state, metrics = self.step(self.state, learner.frozen, batch)
            jax.block_until_ready(metrics)

    def evaluation(self) -> Callable[[int], object]:
        """The loss of so many batches of the validation split, of a step's size."""
        main = evaluators_of(self.session)[0]

        def run(count: int) -> object:
            with jax.set_mesh(self.learner.mesh):
                params = self.learner.weights(self.state, self.learner.frozen)
                return main.measuring.after(params, [count])

        return run


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=4, help="steps in a turn (default 4)")
    parser.add_argument(
        "--pairs", nargs="+", choices=("LoRA", "bfloat16", "evaluation"), help="default: all"
    )
    parser.add_argument("overrides", nargs="*", help="key=value, for all steps")
    options = parser.parse_intermixed_args(words)
    keep_freed_memory()
    config = str(ROOT / ("configs/smoke/transformer" if options.tiny else "configs/quickstart"))
    config += ".yaml"
    count, rounds = (1, 1) if options.tiny else (options.steps, options.rounds)
    pairs = options.pairs or ("LoRA", "bfloat16", "evaluation")
    own = options.overrides
    full = Steps(config, "model.dtype=float32", *own)
    step = partial(full.train, count)
    rows = []
    for name in pairs:
        if name == "evaluation":
            evaluate = partial(full.evaluation(), count)
            sides = {"evaluation": evaluate, "a training step": step}
        else:
            changed = {"LoRA": LORA, "bfloat16": "model.dtype=bfloat16"}[name]
            beside = "all parameters" if name == "LoRA" else "float32"
            sides = {name: partial(Steps(config, changed, *own).train, count), beside: step}
        work = count * full.tokens
        rows.append(compare(sides, name=name, work=work, unit="tokens", rounds=rounds))
    emit("own_steps", rows, options.json)
    return rows


if __name__ == "__main__":
    main()
