"""The report as a browser would take it: whole, safe, offline, small, its figures right."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import random
import re
import time
from html.parser import HTMLParser

import pytest

from jaxlm.core.config import UserError
from jaxlm.core.files import write_sealed
from jaxlm.report import write_report
from jaxlm.report.charts import (
    Line,
    downsample,
    line_chart,
    moving_mean,
    nice_ticks,
    tick_labels,
)
from jaxlm.report.files import read_run
from jaxlm.report.sections.data import Data
from jaxlm.report.tables import fields_table, flatten, table, tree
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import Identity, Record
from jaxlm.training.meter import MFU, RATE
from tests.fake_run import make_run

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """A strict reading of a page: every tag closed in order; tags, attributes and text kept."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def report(run_dir) -> tuple[str, Page]:
    text = write_report(run_dir).read_text(encoding="utf-8")
    return text, Page(text)


def test_a_finished_run(tmp_path):
    _, page = report(make_run(tmp_path / "tiny", restarts=(1800, 3200)))
    for figure in ("2.361 bits per character", "3.763 validation loss", "12.3M parameters"):
        value, label = figure.split(" ", 1)
        assert f"{label} {value}" in page.text
    assert "41.0M" in page.text and "4m31s" in page.text
    assert "9f2c41d07a" * 6 + "be03" in page.text
    assert "5,000 steps" in page.text and "resumed 2 times" in page.text
    titles = ["Curves", "Where the time went", "Evaluation", "Samples", "Configuration", "Data"]
    for title in [
        *titles,
        "Checkpoints",
        "Environment",
        "Loss",
        "Learning rate",
        "Tokens/s",
        "MFU",
    ]:
        assert f" {title} " in page.text
    for detail in ("num_kv_heads", "configs/model/llama_small.yaml:4", "hamlet_gut.txt", "0.12.12"):
        assert detail in page.text
    assert "one of the last 3" in page.text  # a checkpoint, and why it is kept
    assert page.text.count("step 5,000") == 1  # its sample
    assert "1800 resumed" in page.text and "3200 resumed" in page.text
    drawn = [dict(a) for tag, a in page.tags if tag == "path" and a.get("class") == "mark"]
    assert [a["d"] for a in drawn] == ["M360.0 0V1000M640.0 0V1000"] * 7


def test_shares_of_the_time_sum_to_100(tmp_path):
    text, _ = report(make_run(tmp_path / "tiny"))
    rows = re.findall(r'<td class="n">([\d.]+)%</td></tr>', text)
    *parts, total = map(float, rows)
    assert len(parts) == 8
    assert round(sum(parts), 6) == total == 100
    widths = [float(w) for w in re.findall(r'style="flex:(\d+) 1 0"', text)]
    assert [round(100 * w / sum(widths)) for w in widths] == [round(p) for p in parts]


def test_nothing_is_fetched_and_only_the_own_script_runs(tmp_path):
    text, page = report(make_run(tmp_path / "tiny"))
    for _, attributes in page.tags:
        assert not {"src", "href", "srcset", "action", "data", "onload", "onclick"} & set(
            attributes
        )
    assert not re.search(r"url\(|@import|https?://|fetch\(|import\(", text)
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert "default-src 'none'" in policy
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_data_is_a_table_of_counts_and_a_fold_of_the_rest(tmp_path):
    splits = {
        "train": {"rows": 31, "classes": {"bad": 20, "good": 11}},
        "validation": {"rows": 4, "classes": {"bad": 1, "good": 3}, "cut": 2},
    }
    stores = {"train": {"files": {"ids.bin": {"sha256": "0a1b"}}}}
    manifest = {"facts": {"classes": ["bad", "good"]}, "splits": splits, "stores": stores}
    run = dataclasses.replace(read_run(make_run(tmp_path / "tiny")), manifest=manifest)
    html = Data().html(run)
    counts = "train validation rows 31 4 classes.bad 20 1 classes.good 11 3 cut 2 manifest"
    assert counts in Page(html).text
    assert "0a1b" in html[html.index("<details>") : html.index("</details>")]


def test_foreign_text_stays_text(tmp_path):
    evil = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>&amp;中文🙂\u202e\0\ud800"""
    run = make_run(tmp_path / "<b>run<i>", speech=evil)
    (run / "environment.json").write_text(json.dumps({evil: evil, "a": [{"b": evil}]}))
    (run / "data_manifest.json").write_text(json.dumps({evil: {evil: {evil: 1}}}))
    (run / "marks.json").write_text(json.dumps({"train.steps": evil}))
    result = {
        "final": {evil: 1.5},
        "confusion": {"classes": [evil, "b"], "table": [[1, 0], [0, 1]]},
    }
    (run / "result.json").write_text(json.dumps(result))
    text, page = report(run)
    _, plain = report(make_run(tmp_path / "plain", classification=True))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags}
    attributes = {name for _, a in page.tags for name in a}
    assert attributes <= {name for _, a in plain.tags for name in a}
    assert len(page.scripts) == 1
    assert "<script>alert(1)</script>" in page.text  # to be read, not run
    assert "中文🙂" in page.text
    assert "<b>run<i>" in page.text


def test_marked_samples_have_a_colour_for_each_number(tmp_path):
    run = make_run(tmp_path / "run", sample_count=1)
    samples = run / "samples.jsonl"
    record = json.loads(samples.read_text().splitlines()[0])
    pieces = [["To", 1], [" be", 1], [" <or>", 3], [" not", 5]]
    marks = {"label": "order", "prompt": 2, "pieces": pieces}
    good = {"prompt": "To be", "text": " <or> not", "marks": marks}
    damaged = [{"prompt": "a", "text": "b", "marks": bad} for bad in ([], {"pieces": 3}, "x", None)]
    record["samples"] = [good, *damaged]
    samples.write_text(json.dumps(record) + "\n")
    page = write_report(run).read_text()
    assert (
        '<span class="prompt"><i style="--p:0%">To be</i></span>'
        '<i style="--p:30%"> &lt;or&gt;</i><i style="--p:60%"> not</i></div>'
    ) in page
    assert page.count('<span class="prompt">a</span>b</div>') == 4
    assert "Colour: order," in page and '<i style="--p:15%"> 2 </i>' in page


def test_a_long_run_stays_small_and_quick(tmp_path):
    words = "<&\"'" * 2000
    run = make_run(tmp_path / "long", steps=30_000, every=1, sample_count=500, speech=words)
    began = time.process_time()
    path = write_report(run)
    assert time.process_time() - began < 5
    assert path.stat().st_size < 2_000_000
    page = Page(path.read_text(encoding="utf-8"))
    assert "more are in samples.jsonl" in page.text
    assert "step 30,000" in page.text


def test_an_empty_run_and_a_missing_one(tmp_path):
    (tmp_path / "empty").mkdir()
    _, page = report(tmp_path / "empty")
    assert "Nothing was logged." in page.text
    assert "step 0, not finished" in page.text
    with pytest.raises(UserError, match="no such run directory") as error:
        write_report(tmp_path / "absent")
    assert "\n" not in str(error.value)


def test_a_run_under_way_shows_how_far_it_is(tmp_path):
    run = make_run(tmp_path / "run", steps=1000)
    (run / "result.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:31]) + '{"step": 310, "tra')
    _, page = report(run)
    assert "step 300 of 1,000, not finished" in page.text


def test_damaged_files_are_named_and_the_rest_is_shown(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "environment.json").write_text("{")
    (run / "data_manifest.json").write_text("[1]")
    (run / "config.yaml").write_text("a: [")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines[5] = "garbage\n"
    (run / "metrics.jsonl").write_text("".join(lines))
    text, page = report(run)
    assert "environment.json: damaged, it is not JSON" in page.text
    assert "data_manifest.json: damaged, it is not a JSON object" in page.text
    assert "config.yaml:" in page.text
    assert "skipped 1 damaged lines, the first is line 6" in page.text
    assert text.count("<figure") == 7


def test_a_run_of_one_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "time": 1e9, "train/loss": 2.0}\n')
    text, _ = report(tmp_path)
    assert text.count("<figure") == 1 and "NaN" not in text and "nan" not in text.lower()


def test_losses_that_are_not_finite(tmp_path):
    text, page = report(make_run(tmp_path / "run", nan_steps=(2000, 2010)))
    assert "Not finite at step 2,000, 2,010." in page.text
    for data in (json.loads(a["data-lines"]) for _, a in page.tags if "data-lines" in a):
        assert data[0]["x"]
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "train/loss": "NaN"}\n')
    _, page = report(tmp_path / "run")
    assert "Nothing was logged." in page.text


def test_classification_figures_against_counts_by_hand(tmp_path):
    _, page = report(make_run(tmp_path / "run", classification=True))
    # 35 of 50 negatives and 45 of 50 positives are right.
    assert "Accuracy 0.800, macro F1 0.798" in page.text
    assert f"negative 0.875 0.700 {70 / 90:.3f} 50" in page.text
    assert f"positive 0.750 0.900 {90 / 110:.3f} 50" in page.text
    assert "negative 35 15 positive 5 45" in page.text
    assert "accuracy 80.0%" in page.text


def test_a_class_that_is_never_seen_has_no_ratios(tmp_path):
    run = make_run(tmp_path / "run", classification=True)
    confusion = {"classes": ["a", "b"], "table": [[3, 0], [0, 0]]}
    write_sealed(run / "result.json", {"final": {}, "confusion": confusion})
    _, page = report(run)
    assert "b – – – 0" in page.text
    assert "Accuracy 1.000, macro F1 0.500" in page.text


def confused(n: int) -> dict:
    table = [[50 + i if i == j else 7 * (j == (i + 1) % n) for j in range(n)] for i in range(n)]
    return {"classes": [f"class {i}" for i in range(n)], "table": table}


@pytest.mark.parametrize(("n", "form"), [(8, ""), (15, "narrow"), (80, "map"), (300, None)])
def test_a_confusion_table_fits_a_page(tmp_path, n, form):
    run = make_run(tmp_path / "run", steps=200, classification=True)
    write_sealed(run / "result.json", {"final": {}, "confusion": confused(n)})
    text, page = report(run)
    assert len(text) < 1_000_000
    forms = [a["class"].split() for tag, a in page.tags if tag == "table" and "class" in a]
    forms = [words[1:] for words in forms if words[:1] == ["confusion"]]
    assert forms == ([] if form is None else [[form] if form else []])
    cells = [a for tag, a in page.tags if tag == "td" and "cell" in a.get("class", "")]
    assert len(cells) == (0 if form is None else n * n)
    assert ("Most frequent confusions" in page.text) == (n > 8)
    if n > 8:
        assert "class 0 class 1 7 class 1 class 2 7" in page.text
    correct = sum(50 + i for i in range(n))
    assert f"Accuracy {correct / (correct + 7 * n):.3f}" in page.text
    if form == "map":
        assert "class 3 as class 4: 7" in text


def lines_of(page: Page, title: str) -> dict[str, list]:
    """{name: [steps, values]} of a chart's lines."""
    charts = [a for tag, a in page.tags if tag == "figure"]
    spoken = [a["aria-label"] for tag, a in page.tags if tag == "svg"]
    (chart,) = [c for c, s in zip(charts, spoken, strict=True) if s.startswith(f"{title}:")]
    return {d["name"]: [d["x"], d["y"]] for d in json.loads(chart["data-lines"])}


def write_metrics(run, *lines):
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


END = {"step": 30, "eval/loss": 2.5, "final/loss": 1.5}


@pytest.mark.parametrize(
    ("last", "max_batches", "curve", "whole"),
    [
        (END, "2", [[10, 20, 30], [3.0, 2.75, 2.5]], [[30], [1.5]]),
        (END | {"final/loss": 2.5}, "null", [[10, 20, 30], [3.0, 2.75, 2.5]], None),
        ({"step": 30, "eval/loss": 1.5}, "2", [[10, 20], [3.0, 2.75]], [[30], [1.5]]),
        ({"step": 30, "eval/loss": 1.5}, "null", [[10, 20, 30], [3.0, 2.75, 1.5]], None),
    ],
    ids=["parts", "whole", "parts of an older version", "whole of an older version"],
)
def test_a_curve_is_of_comparable_points(tmp_path, last, max_batches, curve, whole):
    (tmp_path / "config.yaml").write_text(f"eval: {{max_batches: {max_batches}}}")
    write_sealed(tmp_path / "result.json", {"step": 30, "final": {"eval/loss": 1.5}})
    before = [{"step": 10, "eval/loss": 3.0}, {"step": 20, "eval/loss": 2.75}]
    write_metrics(tmp_path, *before, last)
    text, page = report(tmp_path)
    lines = lines_of(page, "Loss")
    assert lines["validation"] == curve
    assert lines.get("validation, whole split") == whole
    assert ("Dot: the whole validation split" in page.text) == bool(whole)
    if whole:
        (dots,) = re.findall(r'class="line b" d="([^"]*)"', text)
        assert dots.count("L") == len(curve[0]) - 1, "the whole split is not joined to the curve"


def test_events_of_a_run(tmp_path):
    back = {"event": "rollback", "seen": 8, "batches": [5, 6, 7]}
    changed = ["train.steps: 10 -> 20"]
    write_metrics(
        tmp_path,
        {"step": 0, "time": 1e9, "event": "start"},
        {"step": 4, "time": 1e9 + 5, **back},
        {"step": 4, "time": 1e9 + 7, **back},  # killed before the next save
        {"step": 10, "time": 1e9 + 9, "train/loss": 2.0},
        {"step": 10, "time": 1e9 + 20, "event": "resume", "changed": changed},
        {"step": 20, "time": 1e9 + 30, "train/loss": 1.0},
    )
    accepted = {"flag": "--accept-changed-data", "step": 10, "time": 1e9 + 19, "change": "1 -> 2"}
    identity = Identity(run_id="a" * 32, accepted=(accepted,))
    Record(identity=identity, config="seed: 0").write(RunDir(tmp_path))
    text, page = report(tmp_path)
    words = [
        "0 started",
        "4 rolled back to this step: the loss was not finite at step 8; batches 5 to 7 are skipped",
        "10 changed data accepted (--accept-changed-data): 1 -> 2",
        "10 resumed; changed train.steps: 10 -> 20",
    ]
    at = [page.text.index(w) for w in words]
    assert at == sorted(at) and page.text.count("rolled back to this step: the loss") == 1
    assert "resumed once · rolled back once" in page.text
    assert '<path class="mark" d="M500.0 0V1000"/><path class="mark back" d="M200.0 0' in text


@pytest.mark.parametrize("key", ["seen", "batches", "changed", "time", "event"])
@pytest.mark.parametrize("value", [None, "x", [], [None], {}, -1, 1e300])
def test_a_damaged_event_ends_no_report(tmp_path, key, value):
    back = {"step": 4, "time": 1e9, "event": "rollback", "seen": 8, "batches": [5]}
    again = {"step": 4, "time": 1e9, "event": "resume", "changed": ["x"]}
    write_metrics(tmp_path, back | {key: value}, again | {key: value}, {"step": 9, "train/loss": 1})
    report(tmp_path)


def test_only_what_is_shown_is_explained(tmp_path):
    make_run(tmp_path / "run", steps=100)
    write_sealed(tmp_path / "run/measures.json", {m.name: m.display for m in (RATE, MFU)})
    _, page = report(tmp_path / "run")
    assert "MFU = 3" in page.text and "tokens/s counts" in page.text
    write_metrics(tmp_path / "run", {"step": 1, "train/loss": 1, "train/tokens_per_second": 5})
    _, page = report(tmp_path / "run")
    assert "MFU" not in page.text and "tokens/s counts" in page.text
    write_metrics(tmp_path / "run", {"step": 1, "train/loss": 1})
    _, page = report(tmp_path / "run")
    assert "tokens/s counts" not in page.text


# ------------------------------------------------------------------------------------------- charts


def test_downsampling_keeps_ends_extremes_and_gaps():
    rng = random.Random(0)
    values = [rng.gauss(0, 1) for _ in range(50_000)]
    values[12_345], values[30_000], values[40_000] = 99.0, -77.0, math.nan
    steps = list(range(7, 50_007))
    kept_steps, kept = downsample(steps, values, 1000)
    assert 600 < len(kept) <= 1000
    assert kept_steps == sorted(set(kept_steps))
    assert (kept_steps[0], kept_steps[-1]) == (7, 50_006)
    assert all(values[s - 7] == v or math.isnan(v) for s, v in zip(kept_steps, kept, strict=True))
    assert {99.0, -77.0} <= set(kept)
    assert 40_007 in kept_steps
    assert downsample(steps[:9], values[:9], 9) == (steps[:9], values[:9])


def test_moving_mean_against_the_obvious_one():
    rng = random.Random(1)
    values = [rng.random() for _ in range(60)]
    values[20] = math.nan
    means = moving_mean(values, 8)
    for i, mean in enumerate(means):
        half = min(4, i, 59 - i)
        around = [v for v in values[i - half : i + half + 1] if not math.isnan(v)]
        assert mean == pytest.approx(sum(around) / len(around))
    assert moving_mean([3.0, 3.0, 3.0], 99) == [3, 3, 3]


def test_ticks_cover_the_range_in_round_numbers():
    rng = random.Random(2)
    for _ in range(500):
        low = rng.uniform(-1, 1) * 10 ** rng.uniform(-6, 6)
        high = low + 10 ** rng.uniform(-6, 6)
        ticks = nice_ticks(low, high, 5)
        step = ticks[1] - ticks[0]
        assert ticks[0] <= low + step * 1e-6 and ticks[-1] >= high - step * 1e-6
        assert 3 <= len(ticks) <= 8
        mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-3
        assert ticks[0] > low - step * 1.001 and ticks[-1] < high + step * 1.001
        if abs(low) < 100 * (high - low):
            assert len(set(tick_labels(ticks))) == len(ticks)
    assert len(nice_ticks(2.0, 2.0, 5)) > 1


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([2.0, 2.5, 3.0], ["2.0", "2.5", "3.0"]),
        ([0, 5000, 10000], ["0", "5,000", "10,000"]),
        ([0, 1e-3, 2e-3], ["0", "1e-3", "2e-3"]),
        ([0, 5e-4, 1e-3, 1.5e-3], ["0", "5e-4", "1e-3", "1.5e-3"]),
        ([0, 100_000, 200_000], ["0", "100k", "200k"]),
        ([0, 500_000, 1_000_000], ["0", "0.5M", "1.0M"]),
        ([-0.1, 0.0, 0.1], ["-0.1", "0", "0.1"]),
    ],
)
def test_tick_labels(ticks, labels):
    assert tick_labels(ticks) == labels


def chart_numbers(chart: str) -> list[tuple[float, float]]:
    (path,) = re.findall(r'class="line a" d="([^"]*)"', chart)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def test_points_are_where_the_axes_say():
    line = Line(name="x", style="a", steps=[0, 50, 100], values=[0.0, 4.0, 1.0])
    chart = line_chart("t", [line])
    assert chart_numbers(chart) == [(0, 1000), (500, 0), (1000, 750)]
    tops = dict(re.findall(r'<span style="top:([\d.]+)%">([\d.]+)</span>', chart))
    assert {label: float(top) for top, label in tops.items()} == {
        "0": 100, "1": 75, "2": 50, "3": 25, "4": 0
    }  # fmt: skip


def test_a_steep_beginning_does_not_flatten_the_rest():
    steps = list(range(0, 1000, 10))
    values = [10 * math.exp(-s / 20) + 2 - s / 2000 for s in steps]
    chart = line_chart("Loss", [Line(name="x", style="a", steps=steps, values=values)])
    tops = [float(v) for v in re.findall(r'<span style="top:[\d.]+%">([\d.]+)</span>', chart)]
    assert max(tops) < 6
    assert "Values above the frame: up to 12." in chart
    gentle = [3 - s / 1000 for s in steps]
    chart = line_chart("Loss", [Line(name="x", style="a", steps=steps, values=gentle)])
    assert "frame:" not in chart


def test_a_gap_breaks_the_curve():
    line = Line(name="x", style="a", steps=[0, 1, 2, 3], values=[1.0, math.nan, 2.0, 3.0])
    (path,) = re.findall(r'class="line a" d="([^"]*)"', line_chart("t", [line]))
    assert path.count("M") == 2 and path.count("L") == 1
    assert line_chart("t", [Line(name="x", style="a", steps=[1], values=[math.inf])]) == ""


# ------------------------------------------------------------------------------------------- tables


def test_flatten_and_sources():
    values = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": None}, {"e": True}], "f": {}}
    assert list(flatten(values)) == [
        ("a.b", 1), ("a.c", [1, 2]), ("d.0.e", None), ("d.1.e", True), ("f", {})
    ]  # fmt: skip
    sources = {"m": "file:1", "m.a.b": "file:2", "m.d": "command line"}
    rows = fields_table(flatten(values), sources, "m.")
    assert re.findall(r'class="from">([^<]*)<', rows) == [
        "file:2", "default", "command line", "command line", "default"
    ]  # fmt: skip


def test_like_mappings_make_one_table():
    text = tree({"a": 1, "splits": {"train": {"rows": 5}, "validation": {"rows": 2, "x": "y"}}})
    page = Page(text)
    assert page.text.strip() == "a 1 splits rows x train 5 validation 2 y"


def test_long_tables_are_cut_and_say_so():
    assert "and 50 more" in table(["a"], [[i] for i in range(250)])
    assert "(5,000 characters)" in fields_table([("a", "x" * 5000)])


def test_the_final_value_of_a_metric(tmp_path):
    run = read_run(make_run(tmp_path / "run", steps=100))
    assert run.last("eval/loss") == 3.7633  # the result's, not the last line's
    assert run.last("train/mfu") == run.metrics[-1]["train/mfu"]
    assert run.last("absent") is None


# ----------------------------------------------------------------------------------------- sections


SECTIONS = '''
from dataclasses import dataclass
from typing import ClassVar

from jaxlm.report.sections.base import Section


@dataclass(frozen=True, kw_only=True)
class Notes(Section):
    """What the user wrote about the run."""

    title: ClassVar = "Notes"
    order: ClassVar = 45
    template: ClassVar = "<p>{{ text }}</p>"

    def data(self, run):
        return {"text": (run.path / "notes.txt").read_text()}


@dataclass(frozen=True, kw_only=True)
class Broken(Notes):
    """Needs a value that it does not give."""

    template: ClassVar = "{{ absent }}"
'''


def test_an_installed_package_adds_a_section(tmp_path, monkeypatch):
    info = tmp_path / "site" / "notes-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: notes\nVersion: 1.0\n")
    points = "notes = notes_section:Notes\nbroken = notes_section:Broken\n"
    (info / "entry_points.txt").write_text(f"[jaxlm.report_sections]\n{points}")
    (info.parent / "notes_section.py").write_text(SECTIONS)
    monkeypatch.syspath_prepend(str(info.parent))
    run = make_run(tmp_path / "run", steps=100)
    (run / "notes.txt").write_text("<b>warm & dry</b>")
    text, page = report(run)
    assert "<p>&lt;b&gt;warm &amp; dry&lt;/b&gt;</p>" in text
    at = [page.text.index(title) for title in (" Evaluation ", " Notes ", " Samples ")]
    assert at == sorted(at)
    assert "report section broken: UndefinedError: 'absent' is undefined" in page.text


def test_the_measures_of_a_run_say_how_they_are_shown(tmp_path):
    """Names that jaxlm has never seen: a headline, its chart, and a figure in the table."""
    displays = {
        "eval/glow": {"show": "headline", "better": "higher", "label": "glow of it", "unit": "lx"},
        "eval/dim": {"format": ".1f"},
    }
    write_sealed(tmp_path / "measures.json", displays)
    write_metrics(
        tmp_path,
        {"step": 5, "eval/glow": 1.0, "eval/dim": 4.0},
        {"step": 9, "eval/glow": 2.0, "eval/dim": 3.0},
    )
    final = {"eval/dim": 3.0, "eval/glow": 2.0}
    write_sealed(tmp_path / "result.json", {"step": 9, "final": final})
    text, page = report(tmp_path)
    assert "glow of it 2.0000 lx" in page.text
    assert lines_of(page, "Glow of it")["validation"] == [[5, 9], [1.0, 2.0]]
    assert lines_of(page, "Dim")["validation"] == [[5, 9], [4.0, 3.0]]
    assert text.index("Glow of it") < text.index("more measures") < text.index("Dim")


def test_the_curve_of_a_baseline_has_its_title(tmp_path):
    displays = {"eval/naive_bayes/accuracy": {"better": "higher", "baseline": "naive Bayes"}}
    write_sealed(tmp_path / "measures.json", displays)
    both = [{"step": n, "eval/accuracy": 0.5, "eval/naive_bayes/accuracy": 0.8} for n in (5, 9)]
    write_metrics(tmp_path, *both)
    lines = lines_of(report(tmp_path)[1], "Accuracy")
    assert lines["naive Bayes"] == [[5, 9], [0.8, 0.8]] and "naive_bayes" not in lines
