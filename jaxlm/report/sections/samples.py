"""The texts that the model wrote, newest first; a long run is shown at steps spread over it.

Texts of an objective that marks them (`Objective.marks`) have a colour for each token's number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

from jaxlm.report.files import RunFiles
from jaxlm.report.sections.base import Section

MAX_STEPS = 24
MAX_PER_STEP = 6
MAX_CHARS = 3000
MAX_BYTES = 600_000  # of all samples together
MARKUP = 50  # bytes around a run of marked text
DEEPEST = 60  # per cent of the colour under the largest number


@dataclass(frozen=True, kw_only=True)
class Samples(Section):
    """The texts that the model wrote."""

    title: ClassVar = "Samples"
    order: ClassVar = 50
    template: ClassVar = """\
{% macro piece(text, deep) -%}
{% if deep is number %}<i style="--p:{{ deep }}%">{{ text }}</i>{% else %}{{ text }}{% endif %}
{%- endmacro %}
{% if label %}<p class="note colours">Colour: {{ label }},
{% for text, deep in scale %}{{ piece(text, deep) }} {% endfor %}</p>{% endif %}
{% for block in blocks %}
<details{{ " open" if loop.first }}><summary><b>step {{ block.step }}</b>{{ block.after }}</summary>
{%- for s in block.samples -%}
<div class="text"><span class="prompt">
{%- for text, deep in s.prompt %}{{ piece(text, deep) }}{% endfor %}</span>
{%- for text, deep in s.text %}{{ piece(text, deep) }}{% endfor %}</div>
{%- endfor -%}
</details>
{% endfor %}
{% if left %}<p class="note">{{ left }} more are in samples.jsonl.</p>{% endif %}
"""

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        records = list({record["step"]: record for record in run.samples}.values())
        if not records:
            return None
        count = min(len(records), MAX_STEPS)
        chosen = sorted({round(i * (len(records) - 1) / max(count - 1, 1)) for i in range(count)})
        main = run.main()
        label, most = _scale(records)
        blocks: list[dict[str, Any]] = []
        size = 0
        for index in reversed(chosen):
            record = records[index]
            samples = [_sample(s, most) for s in record["samples"][:MAX_PER_STEP]]
            size += sum(_size(text) for s in samples for part in s.values() for text, _ in part)
            if blocks and size > MAX_BYTES:
                break
            after = main.get(record["step"], "")
            blocks.append({"step": f"{record['step']:,}", "after": after, "samples": samples})
        left = len(records) - len(blocks)
        scale = [(f" {n} ", _deep(n, most)) for n in range(1, most + 1)]
        return {
            "blocks": blocks,
            "left": f"{left:,}" if left else "",
            "label": label,
            "scale": scale,
        }


Runs = list[tuple[str, int | None]]  # (text, per cent of the colour under it; None: no colour)


def _sample(sample: Mapping[str, Any], most: int) -> dict[str, Runs]:
    marks = _marks(sample)
    if marks is not None:
        count, pieces = marks
        first = _runs(pieces[:count], most)
        if first:
            first[0] = (first[0][0].lstrip(" "), first[0][1])
        return {"prompt": first, "text": _runs(pieces[count:], most)}
    prompt, text = str(sample.get("prompt", "")), str(sample.get("text", ""))
    text = text.removeprefix(prompt)
    cut = " …" if len(text) > MAX_CHARS else ""
    return {"prompt": [(prompt[:MAX_CHARS], None)], "text": [(text[:MAX_CHARS] + cut, None)]}


def _marks(sample: Mapping[str, Any]) -> tuple[int, list[tuple[str, int]]] | None:
    """(pieces of the prompt, [(text, number)]) of a sample; None: it has none, or damaged ones."""
    marks = sample.get("marks")
    try:
        pieces = [(str(text), int(number)) for text, number in marks["pieces"]]  # type: ignore
        return int(marks["prompt"]), pieces  # type: ignore[index]
    except (TypeError, ValueError, KeyError):
        return None


def _scale(records: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
    """(what the numbers of the marks are, the largest of them); ("", 0) without marks."""
    label, most = "", 0
    for record in records:
        for sample in record["samples"]:
            if (marks := _marks(sample)) is not None:
                label = str(sample["marks"].get("label", ""))
                most = max([most, *(number for _, number in marks[1])])
    return label, min(most, 20)


def _runs(pieces: Sequence[tuple[str, int]], most: int) -> Runs:
    """Pieces with neighbours of one number together, cut to `MAX_CHARS`."""
    found: Runs = []
    left = MAX_CHARS
    for number, group in groupby(pieces, key=lambda piece: piece[1]):
        text = "".join(piece for piece, _ in group)
        found.append((text[:left], _deep(number, most)))
        left -= len(text)
        if left <= 0:
            break
    return [*found, (" …", None)] if left < 0 else found


def _deep(number: int, most: int) -> int:
    return round(DEEPEST * (min(number, most) - 1) / max(most - 1, 1))


def _size(text: str) -> int:
    """Bytes on the page; a character of HTML's own is up to 5 of them."""
    return MARKUP + len(text.encode("utf-8", "replace")) + sum(4 * text.count(c) for c in "<>&\"'")
