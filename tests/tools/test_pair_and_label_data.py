"""Pairs from questions, and labels of sentences from tagged words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import make_labels_data, make_pair_data

CONTEXT = "SCENE I. A hall.\n\nANA.\nWho is there?\n\nBO.\nA friend.\n"


def questions(number: int) -> list[dict[str, Any]]:
    """Questions about the names above two speeches, and one whose context is one paragraph."""
    rows = []
    for n in range(number):
        name, said = [("ANA", "Who is there?"), ("BO", "A friend.")][n // 2 % 2]
        answers = {"text": [name], "answer_start": [CONTEXT.index(name)]}
        rows.append(
            {"question": f'Who says "{said}"?', "context": CONTEXT, "answers": answers, "id": n}
        )
    alone = {"text": ["x"], "answer_start": [0]}
    return [*rows, {"question": "Which?", "context": "x is alone.", "answers": alone, "id": -1}]


def run(tool: Any, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [tool.__name__, *map(str, words)])
    tool.main()


def write(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> Path:
    folder.mkdir()
    for split, found in rows.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return folder


def read(folder: Path, split: str) -> list[dict[str, Any]]:
    return [*map(json.loads, (folder / f"{split}.jsonl").open())]


def test_half_of_the_pairs_have_the_passage_with_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "qa", {"train": questions(40), "validation": questions(4)})
    run(make_pair_data, monkeypatch, folder, tmp_path / "out")
    made = read(tmp_path / "out", "train")
    assert len(made) == 40 and sum(pair["label"] == "yes" for pair in made) == 20
    for pair in made:
        said = pair["question"].removeprefix('Who says "').removesuffix('"?')
        assert (said in pair["passage"]) == (pair["label"] == "yes")
        assert pair["passage"] in {part.strip() for part in CONTEXT.split("\n\n")}
    wrong = {pair["passage"] for pair in made if pair["label"] == "no"}
    assert len(wrong) == 3  # the heading, and the speech of the other one
    assert len(read(tmp_path / "out", "validation")) == 4
    before = (tmp_path / "out" / "train.jsonl").read_text()
    run(make_pair_data, monkeypatch, folder, tmp_path / "out")
    assert (tmp_path / "out" / "train.jsonl").read_text() == before
    run(make_pair_data, monkeypatch, folder, tmp_path / "few", "--most", 12)
    assert [len(read(tmp_path / "few", split)) for split in ("train", "validation")] == [12, 3]
    with pytest.raises(SystemExit, match="run tools/make_qa_data.py"):
        run(make_pair_data, monkeypatch, tmp_path, tmp_path / "out")


def tagged(text: str) -> dict[str, Any]:
    pairs = [word.split("/") for word in text.split()]
    words, tags = [word for word, _ in pairs], [tag for _, tag in pairs]
    return {"tokens": words, "tags": tags, "document": "a"}


def test_labels_follow_from_the_parts_of_speech(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {
        "He/PPS did/DOD not/* stop/VB ./.": ["negation", "past", "pronoun"],
        "Who/WPS sees/VBZ Rex/NP run/VB ?/.": ["name", "question word"],
        "Two/CD dogs/NNS are/BER faster/RBR now/RB": ["comparison", "number"],
        "The/AT dog/NN can/MD run/VB ./.": ["modal verb"],
        "The/AT dog/NN sleeps/VBZ here/RB ./.": [],
        "Too/QL short/JJ ./.": None,  # left out
    }
    later = {"They/PPSS didn't/DOD see/VB it/PPO ./.": ["negation", "past", "pronoun"]}
    splits = {"train": train, "validation": later}
    rows = {split: [*map(tagged, found)] for split, found in splits.items()}
    folder = write(tmp_path / "tagged", rows)
    run(make_labels_data, monkeypatch, folder, tmp_path / "out")
    for split, found in splits.items():
        made = read(tmp_path / "out", split)
        assert [row["labels"] for row in made] == [x for x in found.values() if x is not None]
    assert made[0]["text"] == "They didn't see it ." and made[0]["document"] == "a"
    with pytest.raises(SystemExit, match="run tools/make_tagging_data.py"):
        run(make_labels_data, monkeypatch, tmp_path, tmp_path / "out")
