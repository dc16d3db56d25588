"""The progress of a run: one live line on a terminal, plain lines elsewhere.

    1250/5000  loss 1.834  eval 1.902  lr 3e-4  12.3k tok/s  MFU 41%  data 0.3%  4m12s left

    with Progress(5000, header="MFU = 3 x forward FLOPs/token x tokens/s / peak") as progress:
        progress.update(1250, {"train/loss": 1.834, "train/tokens_per_second": 12_300.0})
        progress.checkpoint("saving 1250")
        progress.message("restored step 1000")

Values are host floats with the names of metrics.jsonl; a value is shown until the next one. Nothing
here touches a device. "eval" is eval/loss, a point of the curve; "final" is final/loss, over the
whole validation split, where it differs. tok/s counts real tokens, no padding; "train/mfu" and
"train/data_wait" (the share of time that the step waited for a batch) are fractions.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_WIDTH = 100
WINDOW = 50  # updates for the measurement of the pace


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
        self._values: dict[str, float] = {}
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

    def update(self, step: int, values: Mapping[str, float], *, more: bool = False) -> None:
        """`step` steps are done; `values` are the latest metrics.

        `more`: an evaluation of this step follows, so a plain line waits for its values.
        """
        first = not self._pace
        self._step = step
        self._values.update(values)
        if not self._pace or step > self._pace[-1][1]:
            self._pace.append((self._clock(), step))
        measured = any(name.startswith(("eval/", "final/")) for name in values)
        due = step - self._printed >= self._plain_every or first
        due = due or measured or step == self._total
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
        value = self._values.get
        parts = [(9, "", f"{self._step}/{self._total}")]  # (priority, label, text)

        def add(priority: int, label: str, text: str) -> None:
            if text:
                parts.append((priority, label, text))

        add(8, "loss", _number(value("train/loss")))
        add(7, "eval", _number(value("eval/loss")))
        if value("final/loss") != value("eval/loss"):
            add(7, "final", _number(value("final/loss")))
        add(2, "lr", _scientific(value("train/learning_rate")))
        rate, left = value("train/tokens_per_second"), self.seconds_left()
        add(5, "", "" if rate is None else f"{human(rate)} tok/s")
        add(4, "MFU", _percent(value("train/mfu")))
        add(3, "data", _percent(value("train/data_wait")))
        add(1, "", self._checkpoint)
        add(6, "", "" if left is None else f"{duration(left)} left")
        while True:
            texts = [_join(part[1:]) for part in parts]
            for gap in ("  ", " "):
                if len(gap.join(texts)) <= width or len(parts) == 1:
                    return [part[1:] for part in parts], gap
            parts.remove(min(parts))

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


def human(value: float) -> str:
    """A count with three digits: 950, 12.3k, 4.56M, 1.20B."""
    if not math.isfinite(value):
        return str(value)
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            scaled = value / limit
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """A duration in at most two units: 42s, 4m12s, 1h04m, 3d07h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    minutes = whole // 60
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes // 1440}d{minutes % 1440 // 60:02d}h"


def _join(part: tuple[str, str]) -> str:
    return " ".join(part).lstrip()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _scientific(value: float | None) -> str:
    """A learning rate: 3e-4, 2.7e-4."""
    if value is None or not math.isfinite(value) or value == 0:
        return "" if value is None else f"{value:g}"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def _percent(fraction: float | None) -> str:
    """A share with up to two digits: 41%, 0.3%."""
    if fraction is None:
        return ""
    return f"{fraction:.0%}" if fraction >= 0.0995 else f"{fraction:.1%}"


def quoted(step: int, text: str) -> str:
    """A sample as an indented block under its step."""
    lines = "".join(f"\n  | {line}" for line in text.splitlines())
    return f"sample at step {step}:{lines}"
