"""Sentences without a noun, from tagged words."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools import make_cloze_data

SENTENCES = {
    "train": [
        ("The/AT Dog/NN saw/VBD a/AT cat/NN ./.", "a"),
        ("Rex/NP saw/VBD the/AT dog/NN run/VB ./.", "a"),
        ("It/PPS is/BEZ a/AT rare/JJ aardvark/NN ./.", "b"),  # too rare
        ("A/AT dog/NN", "b"),  # too short
    ],
    "validation": [("We/PPSS dog/VB every/AT dog/NN here/RB ./.", "c")],
}


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    folder = tmp_path / "tagged"
    folder.mkdir()
    for split, found in SENTENCES.items():
        rows = []
        for text, name in found:
            pairs = [word.split("/") for word in text.split()]
            words = {"tokens": [word for word, _ in pairs], "tags": [tag for _, tag in pairs]}
            rows.append(words | {"document": name})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def made(tagged: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> dict[str, list[dict]]:
    out = tagged.parent / "out"
    words = ["make_cloze_data.py", str(tagged), str(out), *more]
    monkeypatch.setattr(sys, "argv", words)
    make_cloze_data.main()
    return {s: [*map(json.loads, (out / f"{s}.jsonl").open())] for s in SENTENCES}


def test_a_frequent_noun_is_hidden(tagged, monkeypatch) -> None:
    found = made(tagged, monkeypatch, "--least", "2")
    assert found["train"] == [
        {"text": "The [MASK] saw a cat .", "answer": "dog", "document": "a"},
        {"text": "Rex saw the [MASK] run .", "answer": "dog", "document": "a"},
    ]
    (only,) = found["validation"]  # the verb is not a noun
    assert only == {"text": "We dog every [MASK] here .", "answer": "dog", "document": "c"}


def test_nouns_are_tokens_of_a_vocabulary(tagged, monkeypatch) -> None:
    (tagged / "vocab.txt").write_text("[MASK]\ncat\n##s\n")
    found = made(tagged, monkeypatch, "--least", "1", "--vocab", str(tagged / "vocab.txt"))
    assert [row["text"] for row in found["train"]] == ["The Dog saw a [MASK] ."]
    assert found["validation"] == []
    with pytest.raises(SystemExit, match="run tools/make_tagging_data.py"):
        made(tagged / "none", monkeypatch)
