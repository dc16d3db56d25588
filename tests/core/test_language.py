"""Sources, configs and guides keep to the words of the field: phrases that do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each phrase with what to write instead.
PHRASES = {
    r"stands?(?!-in\b)": "is, is stored",
    r"tells? of": "reports",
    r"hears?": "receives",
    r"mend(?:s|ed|ing)?": "fix",
    r"anew": "again",
    r"alike": "equal, both",
    r"(?:is|are) none": "does not exist",
    r"(?<!there )(?<!there's )(?:is|are) no [a-z]+": "is not a ...; there is no ...",
    r"but for": "except",
    r"behind": "after",
    r"at once": "immediately, at the same time, together",
    r"last word": "overrides",
    r"goes on|go on with": "continues",
    r"what is due": "what has to be done",
    r"(?<!under)lies": "is",
    r"one another": "each other",
    r"in the hosts?'s? memory": "in host memory",
}
WORDS = re.compile("|".join(rf"\b(?:{phrase})\b" for phrase in PHRASES))
BEGINS_WITH_OF = re.compile(r'^\s*(?:r?"""[Oo]f|# Of) ')

CLEAN = (
    *("jaxlm/core", "jaxlm/mesh", "jaxlm/kernels", "jaxlm/optim", "jaxlm/models", "jaxlm/plan"),
    *("jaxlm/distributed", "jaxlm/launch", "jaxlm/report"),
    *("jaxlm/adapters", "jaxlm/checkpoint", "jaxlm/nn", "jaxlm/hf", "jaxlm/generate"),
    *("jaxlm/data", "jaxlm/tasks", "jaxlm/objectives"),
    *(f"jaxlm/training/{n}.py" for n in ("base", "build", "compatibility", "compiler", "counting")),
    *(
        f"jaxlm/training/{n}.py"
        for n in ("learner", "program", "room", "saved_step", "state", "step")
    ),
    *("jaxlm/cli", "jaxlm/run.py", "jaxlm/info.py", "jaxlm/doctor.py", "jaxlm/evals", "jaxlm/api"),
    *("jaxlm/training", "jaxlm/runs"),
    *("configs", "docs", "launch", "tools", "README.md", "CONTRIBUTING.md"),
)
GENERATED = ROOT / "docs/configuration.md"  # its words are those of the fields
TYPES = {".py", ".yaml", ".md", ".j2", ".html", ".sh"}


def files(place: str) -> list[Path]:
    path = ROOT / place
    found = [path] if path.is_file() else path.rglob("*")
    return sorted(p for p in found if p.suffix in TYPES and p != GENERATED)


def findings(text: str) -> list[tuple[int, str]]:
    """(line, phrase) of everything in a text that the list does not allow."""
    return [
        (number, match[0].strip())
        for number, line in enumerate(text.splitlines(), 1)
        for match in (*WORDS.finditer(line), *BEGINS_WITH_OF.finditer(line))
    ]


@pytest.mark.parametrize("place", CLEAN)
def test_the_words_are_those_of_the_field(place: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {phrase!r}"
        for path in files(place)
        for number, phrase in findings(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


def test_a_phrase_of_the_list_is_found() -> None:
    text = (
        'def f():\n    """Of rows that are alike."""\n    return 0  # there is no end; a stand-in\n'
    )
    assert [number for number, _ in findings(text)] == [2, 2]
    assert [phrase for _, phrase in findings("# none is told anew, for 0 is no number")] == [
        "anew",
        "is no number",
    ]
