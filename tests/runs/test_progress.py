"""What is printed, to the character."""

from __future__ import annotations

import io

from rich.console import Console

from jaxlm.core.measures import Measure
from jaxlm.runs.progress import Progress
from jaxlm.training.meter import DATA_WAIT, LEARNING_RATE, LOSS, MFU, RATE

EVAL = Measure("eval/loss", show="headline", brief="eval", format=".3f")
VALUES = [
    LOSS.of(1.8341),
    LEARNING_RATE.of(2.7e-4),
    RATE.of(12345.6),
    MFU.of(0.412),
    DATA_WAIT.of(0.003),
    EVAL.of(1.9),
]


def plain(**options):
    """A progress that prints plain lines, where they go, and a clock that moves a second a call."""
    out, ticks = io.StringIO(), iter(range(10**6))
    console = Console(file=out, width=40)  # narrower than the lines: they must not be folded
    return Progress(console=console, clock=lambda: float(next(ticks)), **options), out


def test_plain_lines():
    progress, out = plain(total_steps=200, plain_every=50, header="MFU = [3 x F] / peak :smile:")
    for step in range(10, 201, 10):
        measures = [*VALUES, LOSS.of(4 - step / 100)] if step != 30 else []
        progress.update(step, measures, evaluated=step != 30)
        if step == 110:
            progress.checkpoint("saved 110")
    progress.close()
    assert out.getvalue().splitlines() == [
        "MFU = [3 x F] / peak :smile:",
        "10/200  loss 3.900  eval 1.900  12.3k tok/s  MFU 41%  lr 2.7e-4  data 0.3%",
    ] + [
        f"{s}/200  loss {4 - s / 100:.3f}  eval 1.900  12.3k tok/s  MFU 41%  lr 2.7e-4  data 0.3%"
        + ("  saved 110" if s > 110 else "")
        + f"  {(200 - s) // 10}s left"
        for s in range(20, 201, 10)
        if s != 30
    ]


def test_plain_lines_come_every_so_often_at_an_evaluation_and_at_the_end():
    progress, out = plain(total_steps=103, start_step=20, plain_every=30)
    for step in range(21, 104):
        progress.update(step, [LOSS.of(2.0)], evaluated=step == 60)
    printed = [int(line.partition("/")[0]) for line in out.getvalue().splitlines()]
    assert printed == [21, 51, 60, 90, 103]


def test_a_step_that_is_evaluated_has_one_line():
    progress, out = plain(total_steps=4, plain_every=2)
    for step in range(1, 5):
        progress.update(step, [LOSS.of(5.0 - step)], more=step % 2 == 0)
        if step % 2 == 0:
            progress.update(step, [EVAL.of(6.0 - step)], evaluated=True)
    assert [line.split("  ")[:3] for line in out.getvalue().splitlines()][1:] == [
        ["2/4", "loss 3.000", "eval 4.000"],
        ["4/4", "loss 1.000", "eval 2.000"],
    ]


def test_a_measure_without_a_brief_label_is_not_on_the_line():
    progress, _ = plain(total_steps=4)
    final = Measure("final/loss", 1.5, show="headline", brief="final", format=".3f")
    progress.update(4, [LOSS.of(1.0), EVAL.of(2.0), final, Measure("eval/accuracy", 0.5)])
    assert progress.line(80) == "4/4  loss 1.000  eval 2.000  final 1.500"
    progress.update(4, [Measure("final/loss", 2.0)])
    assert progress.line(80) == "4/4  loss 1.000  eval 2.000"


def test_a_line_keeps_to_its_width_and_drops_the_least_first():
    progress, _ = plain(total_steps=1_000_000)
    progress.update(123_000, VALUES)
    progress.checkpoint("saving 123000")
    progress.update(123_456, VALUES)
    for width in range(14, 160):
        assert len(progress.line(width)) <= width
    full = progress.line(160)
    assert full.startswith(
        "123456/1000000  loss 1.834  eval 1.900  12.3k tok/s  MFU 41%  lr 2.7e-4"
    )
    assert full.endswith("data 0.3%  saving 123000  32m02s left")
    assert progress.line(len(full) - 1) == full.replace("  ", " ")
    assert progress.line(26) == "123456/1000000  loss 1.834"
    assert progress.line(25) == "123456/1000000 loss 1.834"


def test_not_a_number_is_shown_as_it_is():
    progress, _ = plain(total_steps=10)
    nan = float("nan")
    progress.update(1, [LOSS.of(nan), LEARNING_RATE.of(nan), MFU.of(nan)])
    assert progress.line(100) == "1/10  loss nan  MFU nan%  lr nan"


def test_nothing_is_printed_where_it_is_not_enabled():
    progress, out = plain(total_steps=10, enabled=False, header="header", plain_every=1)
    progress.update(1, VALUES)
    progress.message("text")
    progress.close()
    assert out.getvalue() == ""


def test_the_live_line_on_a_terminal():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, record=True, _environ={})
    with Progress(5000, header="the header", console=console) as progress:
        progress.update(1250, VALUES)
        progress.message("above [the] line")
        progress.update(2500, [LOSS.of(1.5)])
        assert "\n2500/5000" not in out.getvalue()  # no plain line beside the live one
    text = console.export_text()
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "the header"
    assert "above [the] line" in lines
    assert "2500/5000  loss 1.500  eval 1.900  12.3k tok/s  MFU 41%" in lines[-1]
    assert lines[-1].startswith("━")
    assert out.getvalue().endswith("\x1b[?25h")  # the cursor is back
