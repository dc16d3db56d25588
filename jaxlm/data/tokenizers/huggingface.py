"""tokenizer.json of Hugging Face, read by their `tokenizers` library.

    tokenizer = HuggingFace(path="models/gpt2").build(texts, corpus_fingerprint, cache_dir)

Texts are encoded without the special tokens that a template would add, and the spelling of a
special token in a text is encoded as ordinary text. The bytes of an id follow from the file's
decoder: byte-level (GPT-2), U+2581 for a space with bytes as <0x0A> (Llama), or "##" for the
inside of a word (BERT, which is not lossless).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxlm.chat.template import template_of
from jaxlm.core.config import REQUIRED, UserError, field, suggest
from jaxlm.core.errors import looked_from
from jaxlm.core.optional import need
from jaxlm.core.types import Tokenizer, TokenizerConfig
from jaxlm.data.tokenizers.base import PROBES, BaseTokenizer, Texts, first_id, special_ids
from jaxlm.data.tokenizers.special_texts import Placed
from jaxlm.data.tokenizers.special_tokens import names_of, read_json
from jaxlm.data.tokenizers.trial import try_out

SPACE = "\u2581"
JOINING = {"Fuse", "ByteLevel"}  # decoders that make one text of all tokens
# Looked for, in this order, where neither the config nor tokenizer_config.json names the token.
USUAL = {
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[CLS]", "<|endoftext|>"),
    "eos": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[SEP]"),
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>", "[UNK]"),
}


@dataclass(frozen=True, kw_only=True)
class HuggingFace(TokenizerConfig):
    """A tokenizer.json file of Hugging Face."""

    path: str = field(REQUIRED, "the tokenizer.json, or its folder", path=True)
    bos: str | None = field(None, "token that begins a text, where the files do not tell")
    eos: str | None = field(None, "token that ends a text, where the files do not tell")
    pad: str | None = field(None, "token that fills rows, where the files do not tell")

    def build(self, texts: Texts, corpus_fingerprint: str, cache_dir: Path) -> Tokenizer:
        path = Path(self.path).expanduser()
        path = path / "tokenizer.json" if path.is_dir() else path
        try:
            content = path.read_bytes()
        except OSError as error:
            what = f"{error.strerror}{looked_from(path)}"
            raise UserError(f"{path}: {what}; name a tokenizer.json") from None
        try:
            token = tried(content).id_to_token
            names = names_of(path.parent, read_json(path.with_name("config.json")), token)
            given = {"bos": self.bos, "eos": self.eos, "pad": self.pad}
            names |= {name: token for name, token in given.items() if token}
            tokenizer = HuggingFaceTokenizer(content, names)
            return tokenizer.with_chat_template(template_of(path.parent))
        except UserError as error:
            text = str(error)
            raise UserError(
                text if text.startswith(f"{path.parent}") else f"{path}: {text}"
            ) from None


class HuggingFaceTokenizer(BaseTokenizer):
    """The content of a tokenizer.json, and {"bos": "<s>", ...} for its special tokens.

    A name of None says that there is no such token; one that is left out is looked for.
    "add_bos_token" and "add_eos_token" say whether a text has them; else the file's post-processor.
    """

    kind = "huggingface"

    def __init__(self, content: bytes, names: Mapping[str, Any]) -> None:
        self._tokenizer = parsed(content)
        spec = json.loads(content)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True
        self._content, self._names = content, dict(names)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self._special = {t["id"] for t in spec.get("added_tokens", ()) if t["special"]}
        self.token_bytes = self._bytes_of_ids(spec, vocabulary)
        self.vocab_size = len(self.token_bytes)
        ids = special_ids({name: _find(name, names, vocabulary) for name in USUAL})
        self.bos_id, self.eos_id, self.unk_id = ids["bos_id"], ids["eos_id"], ids["unk_id"]
        self.pad_id = ids["pad_id"] or 0
        self.adds_bos, self.adds_eos = self._adds("bos"), self._adds("eos")
        self.separators = self._separators()
        first = first_id(self.encode, self.token_bytes)
        self.adds_space = first is not None and self.token_bytes[first].startswith(b" ")
        self.grows = not _rewrites(_parts(spec.get("decoder") or {}))
        self.lossless = all(self._returns(text) for text in PROBES)

    def _bytes_of_ids(self, spec: Any, vocabulary: Mapping[str, int]) -> list[bytes]:
        spell = _speller(spec)
        added = {t["id"]: t["content"] for t in spec.get("added_tokens", ())}
        out = [b""] * (max(vocabulary.values(), default=-1) + 1)
        for token, i in vocabulary.items():
            if i not in self._special:
                out[i] = added[i].encode() if i in added else spell(token)
        return out

    def _adds(self, name: str) -> bool:
        """Whether a text has this token: tokenizer_config.json says so, else the post-processor."""
        i = getattr(self, f"{name}_id")
        if i is None:
            return False
        if f"add_{name}_token" in self._names:
            return self._names[f"add_{name}_token"]
        with panics_told("a text cannot be encoded"):
            ids = self._tokenizer.encode("a").ids
        return len(ids) > 0 and ids[0 if name == "bos" else -1] == i

    def spelling(self, i: int) -> str:
        """The spelling of token i in the file."""
        return self._tokenizer.id_to_token(i)

    def id_of(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def encode(self, text: str) -> list[int]:
        with panics_told("a text cannot be encoded"):
            return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_with_offsets(self, text: str, *, special: bool = False) -> Placed:
        """The library's own offsets, which hold for a normaliser that changes the text as well."""
        tokenizer = self._with_special if special else self._tokenizer
        with panics_told("a text cannot be encoded"):
            encoding = tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    @cached_property
    def _with_special(self) -> Any:
        """The library's tokenizer, which finds the spellings of special tokens in a text."""
        tokenizer = parsed(self._content)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        return {self._tokenizer.id_to_token(i): i for i in sorted(self._special)}

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        with panics_told("a text cannot be encoded"):
            return [e.ids for e in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    def _separators(self) -> int:
        """The post-processor's number of special tokens between the texts of a pair."""
        with panics_told("a text cannot be encoded"):
            encoded = self._tokenizer.encode("a", "b")
        inner = encoded.special_tokens_mask
        texts = [i for i, special in enumerate(inner) if not special]
        between = sum(inner[texts[0] : texts[-1]]) if texts else 0
        return max(1, between)

    def decode(self, ids: Iterable[int]) -> str:
        """The library's own decoding, which also undoes what the decoder's rules say of spaces."""
        plain = [int(i) for i in ids]
        self.decode_bytes(plain)  # names an id that is out of range
        with panics_told("ids cannot be decoded"):
            return self._tokenizer.decode(plain, skip_special_tokens=True)

    def files(self) -> dict[str, bytes]:
        names = json.dumps(self._names, sort_keys=True).encode()
        return {"tokenizer.json": self._content, "special_tokens.json": names}

    def hf_files(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        return {"tokenizer.json": self._content}, {"tokenizer_class": "PreTrainedTokenizerFast"}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Tokenizer:
        return cls(files["tokenizer.json"], json.loads(files["special_tokens.json"]))


def tried(content: bytes) -> Any:
    """As `parsed`, of a file that comes from elsewhere: its regular expressions are tried first."""
    tokenizer = parsed(content)
    try_out(content)
    return tokenizer


def parsed(content: bytes) -> Any:
    """The library's tokenizer; raises `UserError` for what is not a tokenizer.json."""
    library = need("tokenizers", "hf", "a tokenizer.json")
    with panics_told("cannot be read"):
        try:
            return library.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises bare Exceptions
            reason = str(error)[:200].partition("\n")[0]
            raise UserError(f"not a tokenizer.json ({reason}); fix or replace it") from None


@contextlib.contextmanager
def panics_told(what: str) -> Iterator[None]:
    """An error of the library's Rust code, or a panic, which is no Exception, as a `UserError`."""
    try:
        yield
    except BaseException as error:
        reason = str(error)[:200].partition("\n")[0]
        if type(error) is Exception:  # the library raises bare ones
            raise UserError(
                f"tokenizer.json: {what} ({reason}); fix its model's vocabulary or options"
            ) from None
        if type(error).__name__ != "PanicException":
            raise
        raise UserError(
            f"tokenizer.json: {what}: the tokenizers library panics ({reason}); "
            "fix its normalizer, pre_tokenizer or decoder"
        ) from None


def _find(name: str, names: Mapping[str, str | None], vocabulary: Mapping[str, int]) -> int | None:
    if name in names:
        token = names[name]
        if token is None:
            return None
        if token not in vocabulary:
            raise UserError(f"has no {name} token {token!r}; {suggest(token, vocabulary)}")
        return vocabulary[token]
    return next((vocabulary[token] for token in USUAL[name] if token in vocabulary), None)


def _speller(spec: Any) -> Callable[[str], bytes]:
    """The text that a token of the vocabulary adds, by the decoders that the file lists."""
    kinds = {part.get("type") for part in _parts(spec.get("decoder") or {})}
    if "ByteLevel" in kinds:
        table = _byte_level_table()
        # A token with a character outside the table is its own text.
        return lambda t: bytes(table[c] for c in t) if all(c in table for c in t) else t.encode()
    if "WordPiece" in kinds:
        prefix = (spec.get("decoder") or {}).get("prefix", "##")
        return lambda t: (t.removeprefix(prefix) if t.startswith(prefix) else " " + t).encode()
    with_bytes = "ByteFallback" in kinds

    def spell(token: str) -> bytes:
        if with_bytes and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace(SPACE, " ").encode() if kinds else token.encode()

    return spell


def _parts(decoder: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if decoder.get("type") == "Sequence":
        return [inner for part in decoder["decoders"] for inner in _parts(part)]
    return [decoder] if decoder else []


def _rewrites(decoders: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of them changes the text of several tokens together, as a clean-up ("do n't"
    becomes "don't") or a replacement does after what joins them; before, each token is by itself.
    """
    kinds = [part.get("type") for part in decoders]
    joined = next((n for n, kind in enumerate(kinds) if kind in JOINING), len(kinds))
    patterns = (part["pattern"] for part in decoders[joined:] if "pattern" in part)
    return any(part.get("cleanup") for part in decoders[joined:]) or any(
        len(pattern.get("String", "any")) > 1 for pattern in patterns
    )


def _byte_level_table() -> dict[str, int]:
    """The printable character with which GPT-2's vocabulary writes each byte.

    Bytes that are printable in Latin-1 are written as they are; the others take, in order, the
    characters from U+0100 (Radford et al. 2019).
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(0x100 + n): b for n, b in enumerate(others)}
