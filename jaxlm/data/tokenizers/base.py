"""Text to token ids and back: the common part, and the tokenizers that need no library.

    tokenizer = Bytes().build(texts, corpus_fingerprint, cache_dir)
    ids = tokenizer.encode("To be")
    assert tokenizer.decode(ids) == "To be"

Every id has the bytes that it adds to a text (`token_bytes`; none for special ids), and decoding
is the concatenation of these bytes. So a lossless tokenizer keeps `sum(len(token_bytes[i]) for i
in encode(text)) == len(text.encode())`, which is what bits per byte are counted with. The
spelling of a special token ("</s>") in a text is encoded as ordinary text, except where
`encode_with_offsets` is asked for special ones, as for what a chat template writes.

A tokenizer may have a chat template (`jaxlm.chat`), which is one more of its files.

SentencePiece is in `jaxlm.data.tokenizers.sentencepieces`, tokenizer.json of Hugging Face in
`jaxlm.data.tokenizers.huggingface`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

from jaxlm.chat.template import TEMPLATE_FILES, ChatTemplate
from jaxlm.core import config as config_module
from jaxlm.core.config import REQUIRED, UserError, field, import_name
from jaxlm.core.files import read_regular
from jaxlm.core.registry import import_class
from jaxlm.core.types import Tokenizer, TokenizerConfig
from jaxlm.data.reading.fetch import locked
from jaxlm.data.tokenizers.special_texts import Placed, with_special

Texts = Callable[[], Iterator[str]]  # gives the corpus again at each call

TRAINING_VERSION = 1  # raise it when the same config and corpus come to give another tokenizer
META = "jaxlm_tokenizer.json"
# Texts that a lossy tokenizer does not return: normalisation, added or merged spaces, unknowns.
PROBES = (
    "a",
    " a  b ",
    "\n\n\n",
    "\tx\r\n",
    "\u212b e\u0301 \ufb01",
    "A's",
    "\u2581",
    "\U0001f642",
)
KINDS = {  # what a saved tokenizer of this package says it is; others say module:Class
    "bytes": "jaxlm.data.tokenizers.base:ByteTokenizer",
    "characters": "jaxlm.data.tokenizers.characters:CharacterTokenizer",
    "sentencepiece": "jaxlm.data.tokenizers.sentencepieces:SentencePieceTokenizer",
    "huggingface": "jaxlm.data.tokenizers.huggingface:HuggingFaceTokenizer",
}


class BaseTokenizer:
    """The base of all tokenizers; a kind gives `encode`, `files`, `from_files`, the attributes."""

    kind: ClassVar[str]  # module:Class of one that is not in KINDS

    def __init_subclass__(cls) -> None:
        path = f"{cls.__module__}:{cls.__qualname__}"
        if KINDS.get(cls.__dict__.get("kind", "")) != path:
            cls.kind = path

    bos_id: int | None = None
    eos_id: int | None = None
    unk_id: int | None = (
        None  # replaces what the vocabulary cannot spell; None where it can spell all
    )
    adds_bos: bool = True  # whether its own files put bos before a text, and eos after it
    adds_eos: bool = True
    adds_space: bool = False  # whether it puts a space before every text, as Llama's does
    grows: bool = True  # whether more ids only add to a text: none changes the word before it
    separators: int = 1  # eos tokens between the two texts of a pair, where it has eos
    pad_id: int = 0
    lossless: bool = True  # decode(encode(text)) == text for every text
    # Bytes of text below which one process is quicker than several; None: those of a library that
    # uses all cores. Fewer where encoding is slow Python code, which threads do not speed up.
    small_corpus: int | None = None
    vocab_size: int
    token_bytes: list[bytes]  # vocab_size of them
    chat_template: ChatTemplate | None = None

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without bos or eos."""
        raise NotImplementedError

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def encode_with_offsets(self, text: str, *, special: bool = False) -> Placed:
        """(ids, [(begin, end) of each in characters of the text]); a token that is a part of a
        character has the place of the whole one. Raises `UserError` where the bytes of the tokens
        are not those of the text.

        special: spellings of `special_tokens` in the text become their ids.
        """
        if special:
            return with_special(text, self.special_tokens, self.encode_with_offsets)
        ids = self.encode(text)
        return ids, offsets_of([self.token_bytes[i] for i in ids], text, self.adds_space)

    @property
    def special_tokens(self) -> dict[str, int]:
        """{how a text for `encode_with_offsets` writes a special token: its id}."""
        named = {"<s>": self.bos_id, "</s>": self.eos_id}
        return {name: i for name, i in named.items() if i is not None}

    def spelling(self, i: int) -> str:
        """The spelling of a special token: the key of `special_tokens`."""
        return next(name for name, own in self.special_tokens.items() if own == i)

    def with_chat_template(self, template: ChatTemplate | None) -> Self:
        """The tokenizer with this template; its ids do not change."""
        other = copy.copy(self)
        other.chat_template = template
        return other

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; special ids add nothing, half a character becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        pieces = []
        for i in ids:
            if not 0 <= i < len(self.token_bytes):
                raise UserError(
                    f"token {i} is not in the tokenizer's vocabulary of {len(self.token_bytes)}; "
                    "use the tokenizer that the tokens were made with"
                )
            pieces.append(self.token_bytes[i])
        return b"".join(pieces)

    def id_of(self, token: str) -> int | None:
        """The id of a token as the tokenizer's files write it ("[MASK]"); None: no such token."""
        return None

    def _returns(self, text: str) -> bool:
        """Whether a text comes back, from its ids and from their bytes."""
        ids = self.encode(text)
        return self.decode(ids) == text and self.decode_bytes(ids) == text.encode()

    def files(self) -> dict[str, bytes]:
        """{file name: content}: all that the tokenizer is made of."""
        raise NotImplementedError

    def hf_files(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """(files under Hugging Face's names, what tokenizer_config.json says of them); both are
        empty where that format has no file for the tokenizer.
        """
        return {}, {}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Tokenizer:
        raise NotImplementedError

    def fingerprint(self) -> str:
        """SHA-256 of the kind and the files."""
        return _digest(self.kind, self._all_files())

    def _all_files(self) -> dict[str, bytes]:
        template = self.chat_template
        return self.files() | ({} if template is None else template.files())

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer to `folder`, from which `load_tokenizer` reads it."""
        folder, files = Path(folder), self._all_files()
        folder.mkdir(parents=True, exist_ok=True)
        meta: dict[str, Any] = {"kind": self.kind, "files": sorted(files)}
        meta["sha256"] = self.fingerprint()
        meta |= {"vocab_size": self.vocab_size, "lossless": self.lossless}
        # The description comes last: a folder that has one is complete.
        for name, content in [*files.items(), (META, (json.dumps(meta, indent=1) + "\n").encode())]:
            scratch = folder / f".{name}.tmp"
            scratch.write_bytes(content)
            os.replace(scratch, folder / name)


def offsets_of(pieces: list[bytes], text: str, adds_space: bool = False) -> list[tuple[int, int]]:
    """The characters of a text that each of the pieces, which are its UTF-8 in order, is in."""
    content = text.encode("utf-8")
    shift = int(adds_space and b"".join(pieces) != content)
    if b"".join(pieces) != b" " * shift + content:
        raise UserError(
            f"the tokenizer changes the text {text[:30]!r}, so its tokens have no places in it; "
            "use one that keeps texts, or a tokenizer.json"
        )
    char_of = [n for n, c in enumerate(text) for _ in c.encode("utf-8")]
    found, place = [], -shift
    for piece in pieces:
        begin, place = max(place, 0), place + len(piece)
        first = char_of[begin] if begin < len(char_of) else len(text)
        found.append((first, max(first, char_of[place - 1] + 1) if place > begin else first))
    return found


def ids_sha256(tokenizer: Tokenizer) -> str:
    """The fingerprint without a chat template: equal where texts have equal ids."""
    bare = getattr(tokenizer, "with_chat_template", None)
    return (tokenizer if bare is None else bare(None)).fingerprint()


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer that `save` wrote to `folder`.

    Raises `UserError` where it is missing, or where its files are not the ones that were saved.
    """
    folder = Path(folder)
    try:
        meta = json.loads(read_regular(folder / META))
        files = {name: read_regular(folder / name) for name in meta["files"]}
        kind, digest = meta["kind"], meta["sha256"]
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: holds no tokenizer ({Path(error.filename).name} is missing); "
            "name a run, or a folder that a tokenizer was saved to"
        ) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(
            f"{folder}: its tokenizer ({META}) cannot be read ({error}); restore the folder"
        ) from None
    if kind not in KINDS and ":" not in str(kind):
        raise UserError(
            f"{folder}: a tokenizer of unknown kind {kind!r}; a newer jaxlm may have saved it"
        )
    if _digest(kind, files) != digest:
        raise UserError(
            f"{folder}: the tokenizer's files ({', '.join([META, *files])}) changed since it was "
            "saved; restore them"
        )
    own = {name: content for name, content in files.items() if name not in TEMPLATE_FILES}
    try:
        cls = import_name(KINDS[kind]) if kind in KINDS else import_class(kind)
    except UserError as error:
        raise UserError(f"{folder}: its tokenizer: {error}") from error
    tokenizer = cls.from_files(own)
    if len(own) < len(files):
        tokenizer = tokenizer.with_chat_template(ChatTemplate.from_files(files))
    return tokenizer


def _digest(kind: str, files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256(kind.encode())
    for name, content in sorted(files.items()):
        digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def trained(
    config: TokenizerConfig,
    corpus_fingerprint: str,
    cache_dir: Path,
    train: Callable[[], Tokenizer],
) -> Tokenizer:
    """The tokenizer made by `train`, kept in the cache under the fingerprints of config and corpus.

    If several processes ask for one tokenizer, one trains it and the others wait.
    """
    identity = [TRAINING_VERSION, config_module.sha256(config), corpus_fingerprint]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    folder = Path(cache_dir) / "tokenizers" / key
    with locked(folder):
        if not folder.exists():
            tokenizer = train()
            prefix = f".training-{key}-"
            for left in folder.parent.glob(f"{prefix}*"):  # of a killed process: the lock is ours
                shutil.rmtree(left, ignore_errors=True)
            scratch = tempfile.mkdtemp(dir=folder.parent, prefix=prefix)
            try:
                tokenizer.save(scratch)
                os.rename(scratch, folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return load_tokenizer(folder)


# ------------------------------------------------------------------------------------------- bytes


@dataclass(frozen=True, kw_only=True)
class Bytes(TokenizerConfig, type="bytes"):
    """The 256 bytes of UTF-8; nothing to train, nothing that it cannot spell."""

    def build(self, texts: Texts, corpus_fingerprint: str, cache_dir: Path) -> Tokenizer:
        return ByteTokenizer()


class ByteTokenizer(BaseTokenizer):
    """Id b is byte b; then pad, bos, eos."""

    kind = "bytes"
    pad_id: int = 256
    bos_id: int | None = 257
    eos_id: int | None = 258

    def __init__(self) -> None:
        self.token_bytes = [bytes([b]) for b in range(256)] + [b"", b"", b""]
        self.vocab_size = len(self.token_bytes)

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def files(self) -> dict[str, bytes]:
        return {}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Tokenizer:
        return cls()


# ------------------------------------------------------------------------------------------- saved


@dataclass(frozen=True, kw_only=True)
class Saved(TokenizerConfig, type="saved"):
    """The tokenizer of an earlier run, or of a folder that one was saved to."""

    path: str = field(REQUIRED, "the run's folder, or the tokenizer's", path=True)

    def build(self, texts: Texts, corpus_fingerprint: str, cache_dir: Path) -> Tokenizer:
        folder = Path(self.path).expanduser()
        inner = folder / "tokenizer"
        return load_tokenizer(inner if inner.is_dir() else folder)


def first_id(encode: Callable[[str], list[int]], token_bytes: Sequence[bytes]) -> int | None:
    """The first id of a text: "a", or where that has no ids, the text of a token that has some.
    None: no text has ids.
    """
    own = (spelt.decode("utf-8", "ignore").strip() for spelt in token_bytes)
    found = (encode(text) for text in chain(["a"], own))
    return next((ids[0] for ids in found if ids), None)


def special_ids(names: Mapping[str, int | None]) -> dict[str, int | None]:
    """{"bos_id": ...} with a pad id in any case: padding is masked, so another id may serve."""
    ids = {f"{name}_id": i if i is not None and i >= 0 else None for name, i in names.items()}
    for name in ("eos_id", "unk_id", "bos_id"):
        if ids.get("pad_id") is None:
            ids["pad_id"] = ids.get(name)
    if ids["pad_id"] is None:
        ids["pad_id"] = 0
    return ids
