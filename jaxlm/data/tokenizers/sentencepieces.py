"""SentencePiece: BPE or unigram pieces, trained on the corpus or loaded from a .model file.

Kudo and Richardson 2018, "SentencePiece: A simple and language independent subword tokenizer";
Sennrich et al. 2016 (BPE), Kudo 2018 (unigram). A tokenizer trained here is lossless with byte
fallback: no normalisation, no added or removed spaces, line breaks and tabs as pieces of their
own. SentencePiece writes a space as U+2581, so a U+2581 of the text itself is kept apart and
spelt in bytes.

    tokenizer = SentencePiece(vocab_size=2048).build(texts, corpus_fingerprint, cache_dir)
"""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxlm.core.config import UserError, field
from jaxlm.core.cores import available_cores
from jaxlm.core.errors import looked_from
from jaxlm.core.types import Tokenizer, TokenizerConfig
from jaxlm.data.tokenizers.base import (
    PROBES,
    BaseTokenizer,
    Texts,
    first_id,
    special_ids,
    trained,
)
from jaxlm.data.tokenizers.special_texts import Placed

SPACE = "\u2581"  # how SentencePiece writes a space
BREAKS = ["\n", "\n\n", "\t"]  # pieces of their own: training sees lines, and reserves the tab
# What training is cut at: line breaks, and the trainer's own marks of borders, spaces, unknowns.
_NOT_TRAINED = re.compile("[\0\n\r\t\u2581\u2585]+")
_MAX_LINE = 2000  # characters; longer lines are trained in pieces
MAX_CHUNK = 50_000  # characters of one call: the library needs some 100 bytes for each
# The same, where cutting changes no id. The library needs half the time for short texts, and its
# threads share them.
SHORT_CHUNK = 2_000


@dataclass(frozen=True, kw_only=True)
class SentencePiece(TokenizerConfig, type="sentencepiece"):
    """Pieces learnt from the corpus (BPE or unigram), or a SentencePiece .model file."""

    path: str | None = field(
        None, "a .model file to load; training options then do not matter", path=True
    )
    vocab_size: int = field(4096, "ids in all, special ones and bytes among them", ge=8)
    model_type: Literal["bpe", "unigram"] = field(
        "bpe", "how pieces are learnt; bpe trains about 20 times faster, at about equal length"
    )
    byte_fallback: bool = field(
        True, "256 ids spell rare characters in bytes; without them those are lost as unknown"
    )
    character_coverage: float = field(
        0.9995, "share of the corpus's characters that get an id of their own", gt=0, le=1
    )
    split_digits: bool = field(True, "each digit is a piece")
    training_bytes: int = field(
        100_000_000, "train on an even sample of about this much of a larger corpus", ge=1, le=2**40
    )

    def validate(self) -> None:
        least = 4 + len(BREAKS) + 256 * self.byte_fallback + 1
        if self.path is None and self.vocab_size < least:
            raise UserError(f"vocab_size {self.vocab_size} is too small; set it to {least} or more")

    def build(self, texts: Texts, corpus_fingerprint: str, cache_dir: Path) -> Tokenizer:
        if self.path is not None:
            return _load(Path(self.path).expanduser())
        return trained(
            self,
            corpus_fingerprint,
            cache_dir,
            lambda: SentencePieceTokenizer(train_model(self, texts)),
        )


class SentencePieceTokenizer(BaseTokenizer):
    """A SentencePiece model (the bytes of its .model file).

    `names` ({"bos": "<s>", "eos": None}) are special tokens that are not those of the model.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes, names: Mapping[str, Any] | None = None) -> None:
        import sentencepiece

        self._model, self._names = model, dict(names or {})
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        p = self._processor
        self.token_bytes = [_piece_bytes(p, i) for i in range(p.get_piece_size())]
        self.vocab_size = len(self.token_bytes)
        own = {"bos": p.bos_id(), "eos": p.eos_id(), "pad": p.pad_id(), "unk": p.unk_id()}
        ids = special_ids(own | _renamed(p, self._names))
        self.bos_id, self.eos_id = ids["bos_id"], ids["eos_id"]
        self.pad_id = ids["pad_id"] or 0
        self.adds_bos = self.bos_id is not None and self._names.get("add_bos_token", True)
        self.adds_eos = self.eos_id is not None and self._names.get("add_eos_token", True)
        spells_bytes = any(p.is_byte(i) for i in range(len(self.token_bytes)))
        self.unk_id = None if spells_bytes else p.unk_id()
        self._mark = (
            [p.piece_to_id(f"<0x{b:02X}>") for b in SPACE.encode()]
            if spells_bytes
            else [p.unk_id()]
        )
        # Models from elsewhere may put a space before every text, as Llama's does.
        first = first_id(p.encode, self.token_bytes)
        self.adds_space = first is not None and p.id_to_piece(first).startswith(SPACE)
        # Where a line break is a piece of its own, a text can be cut after it without other ids.
        self._breaks_lines = "\n" in p.encode("a\na", out_type=str)
        self._chunk = SHORT_CHUNK if self._cuts_anywhere() else MAX_CHUNK
        self.lossless = all(self._returns(text) for text in PROBES)

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Many pieces are encoded in as many of the library's threads as there are cores."""
        pieces: list[str] = []
        ends: list[int] = []  # of each text's pieces
        marks: list[int] = []  # pieces that a mark is before
        for text in texts:
            if self.adds_space or (SPACE not in text and len(text) <= self._chunk):
                pieces.append(text)
            else:
                for number, part in enumerate(text.split(SPACE)):
                    if number:
                        marks.append(len(pieces))
                        pieces.append("")  # of no id: the mark may be the end of the text
                    pieces += _chunks(part, self._chunk) if self._breaks_lines else [part]
            ends.append(len(pieces))
        encoded = self._encode(pieces)
        for place in marks:
            encoded[place] = [*self._mark]
        begins = [0, *ends[:-1]]
        return [
            encoded[begin] if end - begin == 1 else [i for ids in encoded[begin:end] for i in ids]
            for begin, end in zip(begins, ends, strict=True)
        ]

    def _encode(self, pieces: list[str]) -> list[list[int]]:
        if len(pieces) > 1 and sum(map(len, pieces)) > MAX_CHUNK:
            return self._processor.encode(pieces, num_threads=available_cores())
        # A list makes the library start a thread, which takes twenty times as long as a sentence.
        return [self._processor.encode(piece) for piece in pieces]

    def _cuts_anywhere(self) -> bool:
        """Whether cuts after runs of line breaks change no id, wherever they are.

        True of a BPE model without a piece that joins a line break to other characters and without
        rules for spaces at the ends of a text. The scores of a unigram model are sums from the
        beginning of a text, in float32: a cut could change how a tie is rounded.
        """
        p = self._processor
        scores = {p.get_score(i) for i in range(self.vocab_size)}
        joins = any(b"\n" in piece and piece.strip(b"\n") for piece in self.token_bytes)
        one, other = "a \n\n", "  b\t c "
        return (
            self._breaks_lines
            and not joins
            and all(score == round(score) for score in scores)
            and p.encode(one + other) == p.encode(one) + p.encode(other)
        )

    def encode_with_offsets(self, text: str, *, special: bool = False) -> Placed:
        """The library's own offsets, where its rules change the text."""
        if special or self.lossless or self.adds_space and self._returns(text):
            return super().encode_with_offsets(text, special=special)
        found: Any = self._processor.encode(text, out_type="offset_mapping")
        return found["ids"], found["offsets"]

    @property
    def special_tokens(self) -> dict[str, int]:
        p = self._processor
        return {p.id_to_piece(i): i for i in range(self.vocab_size) if p.is_control(i)}

    def decode(self, ids: Any) -> str:
        text = super().decode(ids)
        return text.removeprefix(" ") if self.adds_space else text

    def spelling(self, i: int) -> str:
        """The spelling of piece i in the model."""
        return self._processor.id_to_piece(i)

    def id_of(self, token: str) -> int | None:
        i = self._processor.piece_to_id(token)  # the unknown one's where it is missing
        return i if self._processor.id_to_piece(i) == token else None

    def files(self) -> dict[str, bytes]:
        files = {"sentencepiece.model": self._model}
        if self._names:
            files["special_tokens.json"] = json.dumps(self._names, sort_keys=True).encode()
        return files

    def hf_files(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        said = {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": self.adds_space}
        return {"tokenizer.model": self._model}, said

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Tokenizer:
        return cls(files["sentencepiece.model"], json.loads(files.get("special_tokens.json", "{}")))


def _renamed(processor: Any, names: Mapping[str, Any]) -> dict[str, int | None]:
    """The ids of special tokens by name. Padding that the model has no piece for stays its own."""
    ids: dict[str, int | None] = {}
    for name, piece in names.items():
        if name.startswith("add_"):
            continue
        i = None if piece is None else processor.piece_to_id(piece)
        known = i is None or processor.id_to_piece(i) == piece
        if not known and name in ("bos", "eos"):
            raise UserError(f"has no {name} token {piece!r}; check the file that names it")
        if known and name != "unk":
            ids[name] = i
    return ids


def _piece_bytes(processor: Any, i: int) -> bytes:
    piece = processor.id_to_piece(i)
    if processor.is_byte(i):
        return bytes([int(piece[3:5], 16)])
    if processor.is_control(i) or processor.is_unused(i):
        return b""
    return b"\xef\xbf\xbd" if processor.is_unknown(i) else piece.replace(SPACE, " ").encode()


def _chunks(text: str, least: int) -> Iterator[str]:
    """The text in pieces of `least` characters and more that end with all of a run of breaks."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + least)
        end = len(text) if end < 0 else end
        while end < len(text) and text[end] == "\n":
            end += 1
        yield text[start:end]
        start = end


def _load(path: Path) -> Tokenizer:
    try:
        return SentencePieceTokenizer(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}{looked_from(path)}; name a SentencePiece .model file"
        ) from None
    except RuntimeError:
        raise UserError(f"{path}: not a SentencePiece model; name a .model file") from None


# ---------------------------------------------------------------------------------------- training


def train_model(config: SentencePiece, texts: Texts) -> bytes:
    """The bytes of a .model file; the same for the same texts and config."""
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sample_lines(texts, config.training_bytes),
            model_writer=model,
            model_type=config.model_type,
            vocab_size=config.vocab_size,
            byte_fallback=config.byte_fallback,
            character_coverage=config.character_coverage,
            split_digits=config.split_digits,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,  # the indentation of code
            user_defined_symbols=BREAKS,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            max_sentence_length=4 * _MAX_LINE,  # bytes
            num_threads=4,  # a fixed number: unigram sums its counts by thread
            minloglevel=4,
        )
    except (RuntimeError, OSError) as error:
        raise _training_error(config, str(error)) from None
    return model.getvalue()


def _training_error(config: SentencePiece, message: str) -> UserError:
    what = f"SentencePiece vocab_size {config.vocab_size}"
    if most := re.search(r"value <= (\d+)", message):
        return UserError(f"{what} is too large for this corpus; set it to {most[1]} or less")
    if least := re.search(r"required_chars\.? (\d+) vs (\d+)", message):
        return UserError(
            f"{what} is too small for the characters of this corpus; set it to {least[2]} or more, "
            "or lower character_coverage"
        )
    return UserError(
        f"{what}: training failed ({message.strip()}); check that the corpus holds text"
    )


def sample_lines(texts: Texts, limit: int) -> Iterator[str]:
    """The corpus's lines, or of a corpus of more than `limit` bytes an even share of them."""
    total = sum(len(text) for text in texts())  # characters: near enough
    share = min(1.0, limit / max(1, total))
    for text in texts():
        for line in _lines(text):
            # Chosen by hash, so that the choice does not depend on what else is in the corpus.
            if share == 1.0 or zlib.crc32(line.encode()) < share * 2**32:
                yield line


def _lines(text: str) -> Iterator[str]:
    for line in _NOT_TRAINED.split(text):
        for start in range(0, len(line), _MAX_LINE):
            yield line[start : start + _MAX_LINE]
