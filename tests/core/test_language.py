"""Sources, configs and guides keep to the words of the field: phrases that do not come back.

Literals are not unpacked into others, which would only please a formatter.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each phrase with what to write instead.
PHRASES = {
    r"stands?(?!-ins?\b| in for\b)": "is, is stored",
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
BEGINS_WITH_OF = re.compile(r'^\s*(?:r?"""[Oo]f|(?:# )?Of) |help="of |^\|.*\| of ')
NAME_OF_A_TEST = re.compile(r"\bdef test_\w+")

PLACES = ("jaxlm", "tests", "configs", "docs", "launch", "tools", "README.md", "CONTRIBUTING.md")
TYPES = {".py", ".yaml", ".md", ".j2", ".html", ".sh"}


def files(place: str) -> list[Path]:
    path = ROOT / place
    found = [path] if path.is_file() else path.rglob("*")
    return sorted(p for p in found if p.suffix in TYPES and p != Path(__file__))  # the list itself


def findings(text: str) -> list[tuple[int, str]]:
    """(line, phrase) of everything in a text that the list does not allow; tests' names, too."""
    text = NAME_OF_A_TEST.sub(lambda name: name[0].replace("_", " "), text)
    return [
        (number, match[0].strip())
        for number, line in enumerate(text.splitlines(), 1)
        for match in (*WORDS.finditer(line), *BEGINS_WITH_OF.finditer(line))
    ]


@pytest.mark.parametrize("place", PLACES)
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
    assert findings('help="of it"') == [(1, 'help="of')] and findings("| a | of it |")
    assert [phrase for _, phrase in findings("# none is told anew, for 0 is no number")] == [
        "anew",
        "is no number",
    ]
    assert findings("def test_a_run_goes_on():") == [(1, "goes on")]
    assert findings("First.\n    Of two, one.\nThe second\nof two.") == [(2, "Of")]


@pytest.mark.parametrize("place", ["jaxlm", "tools", "tests"])
def test_no_literal_is_unpacked_into_another(place: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files(place)
        if path.suffix == ".py" and re.search(r"\*[(\[{]", text := path.read_text())
        for line in unpacked(text)
    ]
    assert not wrong, "\n".join(wrong)


def unpacked(text: str) -> list[int]:
    """The lines of `*("a", "b")` and `**{"a": 1}`."""
    nodes = list(ast.walk(ast.parse(text)))
    starred = [n for n in nodes if isinstance(n, ast.Starred)]
    found = [n.lineno for n in starred if isinstance(n.value, (ast.Tuple, ast.List))]
    for node in nodes:
        if isinstance(node, ast.Dict):
            inner = [v for k, v in zip(node.keys, node.values, strict=True) if k is None]
            found += [v.lineno for v in inner if isinstance(v, ast.Dict)]
    return found


def test_an_unpacked_literal_is_found() -> None:
    assert unpacked('x = {**{"a": 1}, **others}\ny = [*("a", "b"), *others]\n') == [2, 1]
