"""The measures of one line of metrics.jsonl: loss, rates and shares since the line before.

figures = Figures(program, peak, watch, seq_len=512)
figures.start(step)
figures.count(tokens)                       # of each step whose metrics were read
measures = figures.line(step, values)       # train/loss, train/mfu, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.core.measures import Measure
from jaxlm.core.tree import flatten
from jaxlm.nn.stored_kernel import count_of
from jaxlm.runs.stopwatch import Stopwatch
from jaxlm.training.program import Program
from jaxlm.training.throughput import Peak

LOSS = Measure(
    "train/loss",
    better="lower",
    show="headline",
    label="training loss",
    brief="loss",
    format=".3f",
)
OBJECTIVE = Measure("train/objective", better="lower", label="training objective")
LEARNING_RATE = Measure("train/learning_rate", brief="lr", format="scientific")
GRAD_NORM = Measure("train/grad_norm", label="gradient norm")
# The step's metrics that a line has. A loss is as eval/loss: without smoothing and penalties.
OF_STEPS = {
    "loss": LOSS,
    "objective": OBJECTIVE,
    "learning_rate": LEARNING_RATE,
    "grad_norm": GRAD_NORM,
}
RATE = Measure(
    "train/tokens_per_second",
    better="higher",
    show="headline",
    label="throughput",
    brief="",
    format="count",
    unit="tok/s",
    summary="median",
    note="tokens/s counts real tokens, no padding.",
)
MFU = Measure(
    "train/mfu",
    better="higher",
    show="headline",
    label="MFU",
    brief="MFU",
    format="percent",
    summary="median",
    note="MFU = 3 × forward FLOPs per token × tokens/s / peak FLOP/s of all devices; "
    "with an adapter, the gradients of frozen kernels do not count.",
)
DATA_WAIT = Measure(
    "train/data_wait",
    better="lower",
    label="waiting for data",
    brief="data",
    format="percent",
    summary="median",
)
SECONDS_PER_STEP = Measure("train/seconds_per_step", better="lower", summary="median")


class Figures:
    """Counts tokens between two lines of metrics. All its inputs are host numbers."""

    def __init__(
        self, program: Program, peak: Peak | None, watch: Stopwatch, *, seq_len: int
    ) -> None:
        self._program, self._peak, self._watch = program, peak, watch
        self._forward = program.flops_per_token(seq_len)
        self._per_token = program.step_flops_per_token(seq_len)
        own = program.objective.train_displays
        self._of_steps = OF_STEPS | {m.name: m.under("train") for m in own}
        self._tokens = 0.0  # real tokens since the last line of metrics
        self._step = 0

    def start(self, step: int) -> None:
        """Training continues from this step; rates do not include what came before."""
        self._watch.lap()
        self._step = step

    def count(self, tokens: float) -> None:
        self._tokens += tokens

    def line(self, step: int, values: Mapping[str, Any]) -> list[Measure]:
        """The measures of the steps since the last line, which this one follows."""
        lap = self._watch.lap()
        busy = lap["data"] + lap["step"]
        rate = self._tokens / busy if busy else 0.0
        steps = max(step - self._step, 1)
        self._tokens, self._step = 0.0, step
        return [
            *(m.of(_mean(values[name])) for name, m in self._of_steps.items() if name in values),
            RATE.of(rate),
            *self._mfu(rate),
            DATA_WAIT.of(lap["data"] / busy if busy else 0.0),
            SECONDS_PER_STEP.of(busy / steps),
        ]

    def _mfu(self, rate: float) -> list[Measure]:
        """Nothing on a CPU, which has no known peak."""
        return [MFU.of(self._peak.mfu(self._per_token, rate))] if self._peak else []

    def header(self, options: Mapping[str, str]) -> str:
        """Size, mesh, the definition of MFU and the compiler's options, for people."""
        params = flatten(self._program.abstract_params)
        count = count_of(params)
        trained = count_of(flatten(self._program.trained(self._program.abstract_params)))
        mesh = {axis: size for axis, size in self._program.mesh.shape.items() if size > 1}
        dtype = self._program.model.dtype
        forward = f"{self._forward / 1e6:.1f} MFLOP/token (forward)"
        step = f"3 x {forward}"
        if self._program.frozen:
            step = f"{self._per_token / 1e6:.1f} MFLOP/token (a step; frozen kernels, no gradient)"
        shown = " ".join(f"{name}={value}" for name, value in options.items())
        only = f" ({trained:,} trained)" if trained != count else ""
        return (
            f"{count:,} parameters{only} in {dtype} on mesh {mesh or '1 device'}; "
            + (
                f"MFU = {step} x tokens/s / peak; peak = {self._peak.source}"
                if self._peak
                else forward
            )
            + (f"\nxla: {shown}" if shown else "")
        )


def _mean(pair: tuple[Any, Any]) -> float:
    return float(pair[0]) / max(float(pair[1]), 1e-9)
