"""Words on the two principal axes of their vectors, as evaluator `word_map` has found them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.report.files import RunFiles
from jaxlm.report.sections.base import Section

WIDE, MARGIN = 1.8, 0.06  # width of the picture in heights; free space at its edges
APART = 0.028  # heights between two names that are next to each other


@dataclass(frozen=True, kw_only=True)
class WordMap(Section):
    """A picture of chosen words."""

    title: ClassVar = "Words in two dimensions"
    order: ClassVar = 42
    template: ClassVar = (
        '{% for map in maps %}<figure class="map"><div class="area">'
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" '
        'aria-label="{{ map.spoken }}"><path class="dots a" d="{{ map.path }}"/></svg>'
        '{% for word, left, top, side in map.words %}<span class="{{ side }}" '
        'style="left:{{ left }}%;top:{{ top }}%">{{ word }}</span>{% endfor %}</div>'
        '<p class="note">{{ map.note }}</p></figure>{% endfor %}'
    )

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        values = [v for v in run.result.values() if isinstance(v, dict) and "word_map" in v]
        maps = [_drawn(v["word_map"], v.get("missing", [])) for v in values if v["word_map"]]
        return {"maps": maps} if maps else None


def _drawn(places: dict[str, list[float]], missing: list[str]) -> dict[str, Any]:
    """The picture of {word: [x, y]}, both axes in one scale."""
    xs, ys = zip(*places.values(), strict=True)
    scale = max((max(xs) - min(xs)) / WIDE, max(ys) - min(ys)) or 1.0
    middle_x, middle_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    room = 1 - 2 * MARGIN
    words: list[tuple[str, float, float, str]] = []
    path: list[str] = []
    taken: list[tuple[float, float, float]] = []
    for word, (x, y) in places.items():
        left = 0.5 + room * (x - middle_x) / scale / WIDE
        top = 0.5 - room * (y - middle_y) / scale
        path.append(f"M{1000 * left:.0f} {1000 * top:.0f}h0")
        side, name = _free(word, left, top, taken)
        words.append((word, round(100 * left, 2), round(100 * name, 2), side))
    left_out = f" Not in the vocabulary: {', '.join(missing)}." if missing else ""
    note = "Principal components of the unit vectors; both axes have one scale." + left_out
    return {
        "words": words,
        "path": "".join(path),
        "note": note,
        "spoken": f"Places of {len(words)} words: {', '.join(places)}",
    }


def _free(
    word: str, left: float, top: float, taken: list[tuple[float, float, float]]
) -> tuple[str, float]:
    """The side of a name and its height, where it is off the names so far; else to the right."""
    wide = 0.0075 * len(word) + 0.012
    sides = ["left"] if left > 0.9 else ["right", "left"]
    for moved in (0.0, -APART, APART):
        for side in sides:
            begin = left - wide if side == "left" else left
            here = (begin, begin + wide, top + moved)
            if all(
                here[1] <= a or b <= here[0] or abs(here[2] - y) >= 0.95 * APART
                for a, b, y in taken
            ):
                taken.append(here)
                return side, here[2]
    return sides[0], top
