"""The progress of a run: one live line on a terminal, plain lines elsewhere.

    1250/5000  loss 1.834  eval 1.902  12.3k tok/s  MFU 41%  lr 3e-4  data 0.3%  4m12s left

    with Progress(5000, header="MFU = 3 x forward FLOPs/token x tokens/s / peak") as progress:
        progress.update(1250, [Measure("train/loss", 1.834, brief="loss", show="headline")])
        progress.checkpoint("saving 1250")
        progress.message("restored step 1000")

It shows the measures that have a `brief` label: headlines first, rates (`summary="median"`) after
the others. Where the line is too long, the last ones are left out. A value is shown until the next
one. Values are host floats; nothing here touches a device.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from jaxlm.core.measures import Measure
from jaxlm.core.numbers import duration

PLAIN_WIDTH = 100
WINDOW = 50  # updates for the measurement of the pace
KEPT = 2  # measures that are shown even where the time that is left is not


class Progress:
    """Shows the progress of a run of `total_steps`; `enabled` in one process of a run only.

    `plain_every` is the least number of steps between two plain lines. The first update has a line
    too, so that a log shows when the steps began.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        *,
        header: str = "",
        plain_every: int = 50,
        enabled: bool = True,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total_steps
        self._step = self._printed = start_step
        self._plain_every = plain_every
        self._enabled = enabled
        self._console = console or Console()
        self._clock = clock
        self._shown: dict[str, Measure] = {}
        self._checkpoint = ""
        self._pace: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._live: Live | None = None
        if header:
            self.message(header)
        if enabled and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=4,
                redirect_stderr=True,
            )
            self._live.start()

    def update(
        self,
        step: int,
        measures: Iterable[Measure],
        *,
        more: bool = False,
        evaluated: bool = False,
    ) -> None:
        """`step` steps are done; `measures` are the latest ones.

        more: an evaluation of this step follows, so a plain line waits for its values. evaluated:
        they are those of an evaluation, which always has a line.
        """
        first = not self._pace
        self._step = step
        self._shown.update({measure.name: measure for measure in measures})
        if not self._pace or step > self._pace[-1][1]:
            self._pace.append((self._clock(), step))
        due = step - self._printed >= self._plain_every or first
        due = due or evaluated or step == self._total
        if self._enabled and self._live is None and due and not more:
            self._print(self.line(PLAIN_WIDTH))
            self._printed = step

    def checkpoint(self, state: str) -> None:
        """Sets the state of the checkpoints: "saving 1200", "saved 1200"."""
        self._checkpoint = state

    def message(self, text: str) -> None:
        """Prints `text`, above the live line where there is one."""
        if self._enabled:
            self._print(text)

    def close(self) -> None:
        """Leaves the last state on the screen; a second call does nothing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def line(self, width: int) -> str:
        """The state on one line of at most `width` columns.

        If it is too long, first the gaps shrink, then the least important parts are left out.
        """
        parts, gap = self._parts(width)
        return gap.join(_join(part) for part in parts)

    def seconds_left(self) -> float | None:
        """At the pace of the last updates, including evaluation and saves; None before two."""
        if len(self._pace) < 2:
            return None
        (start, first), (end, last) = self._pace[0], self._pace[-1]
        return (end - start) / (last - first) * max(self._total - self._step, 0)

    # ------------------------------------------------------------------------------------------

    def _parts(self, width: int) -> tuple[list[tuple[str, str]], str]:
        """(label, text) of the parts that fit `width` columns, and the gap between them."""
        shown = sorted(self._shown.values(), key=_rank)
        parts = [(m.brief, m.text) for m in shown if m.brief is not None]
        head, left = ("", f"{self._step}/{self._total}"), self.seconds_left()
        tail = [] if left is None else [("", f"{duration(left)} left")]
        state = [("", self._checkpoint)] if self._checkpoint else []
        while True:
            line = [head, *parts, *state, *tail]
            texts = [_join(part) for part in line]
            for gap in ("  ", " "):
                if len(gap.join(texts)) <= width or len(line) == 1:
                    return line, gap
            if state:
                state = []
            elif len(parts) > KEPT or (parts and not tail):
                parts.pop()
            else:
                tail = []

    def _render(self) -> Text:
        """The live line: a bar if there is room, labels dimmed."""
        width = self._console.width - 1
        parts, gap = self._parts(width)
        line = Text(no_wrap=True, overflow="crop")
        room = width - len(self.line(width)) - 2
        if room >= 10:
            columns = min(room, 30)
            filled = int(columns * min(self._step / max(self._total, 1), 1.0))
            line.append("━" * filled, "cyan").append("━" * (columns - filled), "bright_black")
            line.append("  ")
        for index, (label, text) in enumerate(parts):
            line.append(gap if index else "")
            line.append(f"{label} " if label else "", "bright_black").append(text)
        return line

    def _print(self, text: str) -> None:
        # soft_wrap: rich must not fold or cut lines of a file.
        self._console.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)


def _rank(measure: Measure) -> tuple[bool, bool]:
    """Headlines first; rates after the other measures."""
    return measure.show != "headline", measure.summary == "median"


def _join(part: tuple[str, str]) -> str:
    return " ".join(part).lstrip()


def quoted(step: int, text: str) -> str:
    """A sample as an indented block under its step."""
    lines = "".join(f"\n  | {line}" for line in text.splitlines())
    return f"sample at step {step}:{lines}"
