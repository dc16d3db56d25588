"""The analogies of a questions-words file, scored as gensim's `evaluate_word_analogies` does.

    : capital-common-countries
    Athens Greece Baghdad Iraq

    found = score_questions(table, "questions-words.txt")
    found[-1].accuracy                                  # of all sections together

The answer to `a b c` is the word, among the first 300,000, whose unit vector has the largest dot
product with b - a + c (3CosAdd: Levy and Goldberg 2014), a, b and c left out. Upper and lower case
are the same; of words that differ in case alone, the first is taken, as it is the most frequent. A
question with a word that has no vector is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.errors import looked_from
from jaxlm.vectors.table import WordVectors

MOST_WORDS = 300_000
RANKED = 5  # of the words besides a, b and c that gensim looks at for an answer
ROWS, COLUMNS = 512, 16_384  # of a block of scores: 32 MB


@dataclass
class Score:
    """The answers of one section, or of all."""

    section: str
    correct: int = 0
    wrong: int = 0
    unknown: int = 0  # left out: a word has no vector
    skipped: int = 0  # of all sections: lines that have not four words

    @property
    def asked(self) -> int:
        return self.correct + self.wrong

    @property
    def accuracy(self) -> float | None:
        """The share of right answers; None where no question could be asked."""
        return self.correct / self.asked if self.asked else None


@dataclass
class Questions:
    """The questions of a file whose words all have vectors, as rows of the table."""

    sections: list[Score] = field(default_factory=list)
    section: list[int] = field(default_factory=list)  # of each question
    rows: list[tuple[int, int, int, int]] = field(default_factory=list)
    skipped: int = 0  # lines that have not four words


def score_questions(
    table: WordVectors, path: str | Path, *, most_words: int = MOST_WORDS
) -> list[Score]:
    """The scores of each section, and those of all of them at the end.

    Raises `UserError` where the file has no questions, or none that the words of the table ask.
    """
    first = folded(table.words[:most_words])
    questions = _read(Path(path), first)
    asked = np.array(questions.rows, np.int64).reshape(-1, 4)
    answers = _answers(table, asked[:, :3], first, min(most_words, len(table)))
    for section, right in zip(questions.section, answers == asked[:, 3], strict=True):
        questions.sections[section].correct += int(right)
        questions.sections[section].wrong += int(not right)
    total = Score("all", skipped=questions.skipped)
    for each in questions.sections:
        total.correct += each.correct
        total.wrong += each.wrong
        total.unknown += each.unknown
    if not total.asked:
        raise UserError(
            f"{path}: no question has four words with vectors; check that it is of the language of "
            "the vectors"
        )
    return [*questions.sections, total]


def folded(words: Sequence[str]) -> dict[str, int]:
    """{word in upper case: the first row that has it}"""
    return {words[i].upper(): i for i in range(len(words) - 1, -1, -1)}


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a text file. Raises `UserError` for another file."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file{looked_from(path)}; check the path")
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            yield from enumerate(file, 1)
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; name a text file") from None


def _read(path: Path, first: dict[str, int]) -> Questions:
    found = Questions()
    for number, line in text_lines(path):
        if line.startswith(": "):
            found.sections.append(Score(line.lstrip(": ").strip()))
            continue
        if not found.sections:
            raise UserError(
                f'{path}: line {number}: comes before a section; begin with a line such as ": '
                'capitals"'
            )
        words = [word.upper() for word in line.split()]
        if len(words) != 4:
            found.skipped += bool(words)
        elif all(word in first for word in words):
            a, b, c, d = (first[word] for word in words)
            found.rows.append((a, b, c, d))
            found.section.append(len(found.sections) - 1)
        else:
            found.sections[-1].unknown += 1
    return found


def _answers(table: WordVectors, asked: np.ndarray, first: dict[str, int], most: int) -> np.ndarray:
    """[Q] the row of each answer among the first `most`, for questions [Q, 3] of the rows of a, b
    and c.
    """
    unit = table.unit
    of_word = np.array([first[word.upper()] for word in table.words[:most]])
    again = _again(of_word)
    answers = np.empty(len(asked), np.int64)
    for begin in range(0, len(asked), ROWS):
        part = asked[begin : begin + ROWS]
        wanted = unit[part[:, 1]] - unit[part[:, 0]] + unit[part[:, 2]]
        left_out = [
            sorted({r for x in row for r in (x, *again.get(x, ()))}) for row in part.tolist()
        ]
        found = _best(unit, most, wanted, left_out)
        for i, rows in enumerate(left_out):
            # In other letter case it is not an answer; but gensim looks at five words and no more.
            if len(rows) - len(set(part[i])) >= RANKED:
                found[i] = _ranked(unit[:most] @ wanted[i], part[i], of_word)
        answers[begin : begin + ROWS] = of_word[found]
    return answers


def _again(of_word: np.ndarray) -> dict[int, list[int]]:
    """{row: the later rows with the same word in other letter case}"""
    found: dict[int, list[int]] = {}
    for row in np.flatnonzero(of_word != np.arange(len(of_word))):
        found.setdefault(int(of_word[row]), []).append(int(row))
    return found


def _best(unit: np.ndarray, most: int, wanted: np.ndarray, left_out: list[list[int]]) -> np.ndarray:
    """[Q] the row with the largest product with each of `wanted` [Q, D], but those left out."""
    best = np.full(len(wanted), -np.inf, np.float32)
    rows = np.zeros(len(wanted), np.int64)
    question = np.repeat(np.arange(len(wanted)), [len(x) for x in left_out])
    out = np.concatenate([np.array(x, np.int64) for x in left_out])
    for begin in range(0, most, COLUMNS):
        end = min(begin + COLUMNS, most)
        scores = wanted @ unit[begin:end].T
        inside = (out >= begin) & (out < end)
        scores[question[inside], out[inside] - begin] = -np.inf
        place = scores.argmax(1)
        value = scores[np.arange(len(wanted)), place]
        better = value > best
        best[better], rows[better] = value[better], place[better] + begin
    return rows


def _ranked(scores: np.ndarray, asked: np.ndarray, of_word: np.ndarray) -> int:
    """The answer among the five best rows: the first that is another word, else the last one."""
    order = [row for row in np.argsort(-scores, kind="stable")[: RANKED + 3] if row not in asked]
    known = set(of_word[asked])
    for row in order[:RANKED]:
        if of_word[row] not in known:
            return int(row)
    return int(order[:RANKED][-1])
