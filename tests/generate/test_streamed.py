"""Texts that are read while they are written: the pieces are the text, and none is taken back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.generate import Ends, Sampling, Writer, ids_of, writer_of
from tests import tiny

FORM: Any = SimpleNamespace(reads=lambda *_: True, encode=lambda *_: [1])
ENDS = Ends(False, False, format=FORM)


class Spelled:
    """Writes a text byte by byte."""

    program = SimpleNamespace(model=SimpleNamespace(prompt_format=None))

    def __init__(self, text: str, stop: tuple[str, ...]) -> None:
        self.sampling = SimpleNamespace(stop=stop)
        self.ids = np.array([*text.encode()], np.int32)

    def until_end(self, row: np.ndarray) -> list[int]:
        return [int(i) for i in row]

    def with_scores(self, params: None, prompts: Sequence[Any], *, on_ids: Any, **_: Any) -> Any:
        for size in range(1, len(self.ids) + 1):
            on_ids(np.stack([self.ids[:size]] * len(prompts)))
        return [(self.ids, 0.0) for _ in prompts]


def pieces_of(writer: Writer, params: Any, prompts: list[str], seed: int = 0) -> tuple[Any, Any]:
    pieces: list[list[str]] = [[] for _ in prompts]
    found = writer.streamed(params, prompts, lambda n, text: pieces[n].append(text), seed=seed)
    return pieces, [written.text for written in found]


class Cleaned(ByteTokenizer):
    """Writes words together that English writes so."""

    grows = False

    def decode(self, ids: Iterable[int]) -> str:
        text = super().decode(ids)
        return text.replace(" do not", " don't").replace(" n't", "n't").replace(" ' ", "'")


def test_no_piece_has_half_a_character_or_the_beginning_of_a_stop() -> None:
    generator: Any = Spelled("naïve ENcafé 文字END of it", ("END", "stop"))
    writer = Writer(ByteTokenizer(), generator, ENDS)
    (pieces,), (text,) = pieces_of(writer, None, ["a"])
    assert "".join(pieces) == text == "naïve ENcafé 文字"
    assert "ENc" in pieces and not any(piece.endswith("E") for piece in pieces)
    assert not any("\ufffd" in piece for piece in pieces)


def test_no_piece_has_a_word_that_a_later_one_changes() -> None:
    generator: Any = Spelled("I do not, it does n't: the dogs ' tails END", ("END",))
    writer = Writer(Cleaned(), generator, ENDS)
    (pieces,), (text,) = pieces_of(writer, None, ["a"])
    assert "".join(pieces) == text == "I don't, it doesn't: the dogs'tails "
    assert pieces[:3] == ["I", " do", "n't,"]


def test_a_text_in_pieces_is_the_text_as_a_whole() -> None:
    config, prepared = tiny.prepared(tiny.load("transformer", "model.num_layers=1").config)
    program = tiny.program(config)
    sampling, ends = Sampling(max_tokens=20, temperature=1.0), Ends(True, False)
    ids = ids_of(prepared.tokenizer, ends=ends)
    writer = writer_of(program, sampling, prepared.tokenizer, ids, ends)
    params, prompts = tiny.params_of(program), ["a king", "b"]
    pieces, texts = pieces_of(writer, params, prompts, seed=3)
    assert [written.text for written in writer.with_scores(params, prompts, seed=3)] == texts
    assert ["".join(each) for each in pieces] == texts
    assert max(map(len, pieces)) > 1
    unmarked = writer_of(program, sampling, prepared.tokenizer, ids, Ends(False, False))
    with pytest.raises(UserError, match="has no tokens"):
        unmarked.check(["a", ""])
