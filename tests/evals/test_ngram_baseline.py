"""The n-gram baseline of language models: characters of the training split, whatever the tokens."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxlm.core.measures import values_of
from jaxlm.data.rows.lm_split import LanguageSplit
from jaxlm.data.store.tokens import Documents, TokenFile
from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.evals.baselines.ngram import Ngram, texts
from jaxlm.ngrams.counting import count, stream
from jaxlm.ngrams.smoothing.kneser_ney import KneserNey
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.masked_lm import MaskedLM

TRAIN = ["the cat sat on the mat ö", "a dog and a cat", "the dog sat"] * 4
HELD = ["the cat and the dog", "an elephant"]


class Pairs(ByteTokenizer):
    """Pairs of ASCII letters as further ids."""

    def __init__(self) -> None:
        super().__init__()
        letters = "abcdefghijklmnopqrstuvwxyz "
        self.pairs = {
            a + b: 259 + i for i, (a, b) in enumerate((a, b) for a in letters for b in letters)
        }
        self.token_bytes = [*self.token_bytes, *(p.encode() for p in self.pairs)]
        self.vocab_size = len(self.token_bytes)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        while text:
            size = 2 if text[:2] in self.pairs else 1
            ids += [self.pairs[text[:2]]] if size == 2 else text[:1].encode()
            text = text[size:]
        return ids


def split(path: Path, tokenizer: Any, texts: list[str], marked: bool = True) -> LanguageSplit:
    bos, eos = ([tokenizer.bos_id], [tokenizer.eos_id]) if marked else ([], [])
    ids = [[*bos, *tokenizer.encode(t), *eos] for t in texts]
    np.concatenate(ids).astype(np.uint16).tofile(path)
    lengths = np.array([len(each) for each in ids])
    starts = np.cumsum(lengths) - lengths
    documents = Documents(TokenFile(path, "uint16"), starts, lengths, np.arange(len(ids)))
    return LanguageSplit(documents, 8, "in_order", "split", 256, {})


def session(folder: Path, tokenizer: Any, objective: Any = None, marked: bool = True) -> Any:
    splits = {
        "train": split(folder / "train.bin", tokenizer, TRAIN, marked),
        "validation": split(folder / "held.bin", tokenizer, HELD, marked),
    }
    prepared = SimpleNamespace(tokenizer=tokenizer, splits=splits)
    return SimpleNamespace(
        prepared=prepared, config=SimpleNamespace(objective=objective or CausalLM())
    )


def by_hand() -> tuple[float, int]:
    """(-log p of the held-out texts with their ends, their characters)"""
    known = {c: 3 + i for i, c in enumerate(sorted(set("".join(TRAIN))))}
    ids = lambda texts: [np.array([*(known.get(c, 2) for c in t), 1]) for t in texts]  # noqa: E731
    counts = count(stream(ids(TRAIN), 0), order=6, vocab_size=3 + len(known), bos=0)
    asked = stream(ids(HELD), 0)
    log_p = KneserNey().estimate(counts).log_probs(asked)
    unknown = sum(c not in known for c in "".join(HELD))
    assert unknown == 2  # "l" and "p"
    return -log_p[asked != 0].sum() + unknown * 17 * math.log(2), len("".join(HELD))


def test_it_is_a_model_of_characters_whatever_the_tokens(tmp_path: Path) -> None:
    nats, characters = by_hand()
    for tokenizer in (ByteTokenizer(), Pairs()):
        data = session(tmp_path, tokenizer)
        measures = Ngram().measures(data, "validation")
        assert measures is not None and measures[0].name == "bits_per_char"
        values = values_of(measures)
        assert values["bits_per_char"] == pytest.approx(nats / math.log(2) / characters)
        targets = sum(len(tokenizer.encode(t)) + 1 for t in HELD)
        assert values["loss"] == pytest.approx(nats / targets)
        assert Ngram().title(data, "validation") == "character 6-gram model"


def test_without_a_mark_the_first_token_is_given(tmp_path: Path) -> None:
    """As the model is not asked for it; nor for an end that the data does not mark."""
    known = {c: 3 + i for i, c in enumerate(sorted(set("".join(TRAIN))))}
    ids = lambda texts: [np.array([known.get(c, 2) for c in t]) for t in texts]  # noqa: E731
    model = KneserNey().estimate(
        count(stream(ids(TRAIN), 0), order=6, vocab_size=3 + len(known), bos=0)
    )
    for tokenizer, given in ((ByteTokenizer(), 1), (Pairs(), 2)):
        nats = [-model.log_probs(np.append(0, each))[1 + given :].sum() for each in ids(HELD)]
        unknown = 2 * 17 * math.log(2)
        measures = Ngram().measures(session(tmp_path, tokenizer, marked=False), "validation")
        assert measures is not None
        asked = sum(len(t) - given for t in HELD)
        want = (sum(nats) + unknown) / math.log(2) / asked
        assert measures[0].value == pytest.approx(want)


def test_it_reads_a_part_of_a_long_text_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, beats = session(tmp_path, ByteTokenizer()), []
    whole = Ngram().measures(data, "validation", on_batch=lambda: beats.append(0))
    assert len(beats) >= len(TRAIN) + len(HELD)
    train = data.prepared.splits["train"].documents
    taken = sum(len(t.characters) for t in texts(ByteTokenizer(), [train], 90))
    assert 60 <= taken <= 90
    monkeypatch.setattr(Ngram, "most_counted", 90)
    part = Ngram().measures(data, "validation")
    assert whole is not None and part is not None and part[0].value != whole[0].value
    assert "of the training text" in Ngram().title(data, "validation")
    monkeypatch.setattr(Ngram, "most_scored", 15)
    assert Ngram().title(data, "validation").endswith("on 50.0% of the split")
    assert Ngram().measures(data, "validation") is not None


def test_the_characters_of_all_are_not_those_of_the_first_document(tmp_path: Path) -> None:
    """It may have special tokens alone."""
    documents = split(tmp_path / "s.bin", ByteTokenizer(), ["", *TRAIN]).documents
    taken = sum(len(t.characters) for t in texts(ByteTokenizer(), [documents], 90))
    assert 60 <= taken <= 90


def test_other_objectives_and_rows_have_none(tmp_path: Path) -> None:
    data = session(tmp_path, ByteTokenizer(), MaskedLM())
    assert Ngram().measures(data, "validation") is None
    data = session(tmp_path, ByteTokenizer())
    data.prepared.splits["train"] = SimpleNamespace(rows=[])
    assert Ngram().measures(data, "validation") is None
    del data.prepared.splits["train"]
    assert Ngram().measures(data, "validation") is None
    mixed = session(tmp_path, ByteTokenizer())
    alone = Ngram().measures(mixed, "validation")
    splits = mixed.prepared.splits
    splits["train"] = SimpleNamespace(parts={"a": splits["train"]})
    found = Ngram().measures(mixed, "validation")
    assert found is not None and found == alone
