"""The tokenizer of a Hugging Face folder as one of ours, and ours as files of that format.

    tokenizer = read_tokenizer(folder, config)     # None where the folder has none

Looked for in this order: tokenizer.json; a SentencePiece model (tokenizer.model, spiece.model);
GPT-2's vocab.json with merges.txt; BERT's vocab.txt. What begins, ends and fills a text is said by
tokenizer_config.json, else special_tokens_map.json, else config.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxlm.chat.template import TEMPLATE, template_of
from jaxlm.core.config import UserError
from jaxlm.core.optional import need
from jaxlm.data.tokenizers.huggingface import USUAL, HuggingFaceTokenizer, tried
from jaxlm.data.tokenizers.sentencepieces import SentencePieceTokenizer
from jaxlm.data.tokenizers.special_tokens import STANDS_FOR, names_of, read_json

SENTENCEPIECE = ("tokenizer.model", "spiece.model")
FILES = (  # all that a tokenizer may consist of; kept, so that they come out as they came in
    "tokenizer.json",
    *SENTENCEPIECE,
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    # what sentence-transformers has besides: how hidden states become a text's embedding
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "[0-9]*_*/config.json",
    "[0-9]*_*/model.safetensors",
    "README.md",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY.md",
)


def read_tokenizer(folder: Path, config: Mapping[str, Any]) -> Any:
    """A `jaxlm.core.types.Tokenizer` with its chat template, or None. Raises `UserError` for a file
    that cannot be read.
    """
    tokenizer = _read_tokenizer(folder, config)
    return None if tokenizer is None else tokenizer.with_chat_template(template_of(folder))


def _read_tokenizer(folder: Path, config: Mapping[str, Any]) -> Any:
    has = lambda *names: all((folder / name).is_file() for name in names)  # noqa: E731
    if has("tokenizer.json"):
        return _from_json(folder / "tokenizer.json", _read(folder / "tokenizer.json"), config)
    for name in SENTENCEPIECE:
        if has(name):
            return _from_pieces(folder / name, config)
    for names, make in ((("vocab.json", "merges.txt"), _byte_pairs), (("vocab.txt",), _pieces)):
        if has(*names):
            path = folder / names[0]
            try:
                content = make(folder).to_str().encode()
            except UserError:
                raise
            except Exception as error:  # the library raises bare Exceptions
                raise UserError(f"{path}: no vocabulary ({str(error)[:200]}); correct it") from None
            return _from_json(path, content, config)
    return None


def files_of(tokenizer: Any) -> dict[str, bytes]:
    """A tokenizer of ours under Hugging Face's names; nothing where the format has none for it."""
    files, said = tokenizer.hf_files()
    if not files:
        return {}
    ids = special_tokens(tokenizer)
    named = {f"{name}_token": tokenizer.spelling(i) for name, i in ids.items()}
    files = files | {"tokenizer_config.json": to_json({**said, **named})}
    return files | template_files(tokenizer, files)


def template_files(tokenizer: Any, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a tokenizer that its chat template changes: chat_template.jinja, which newer
    versions of transformers read, and the key of tokenizer_config.json, which older ones do.
    Nothing where the template is that of the files already.
    """
    template = getattr(tokenizer, "chat_template", None)
    values = json.loads(files.get("tokenizer_config.json", b"{}"))
    own = files.get(TEMPLATE, str(values.get("chat_template")).encode())
    listed = isinstance(values.get("chat_template"), list)  # several by name, as they came
    if template is None or own == template.source.encode() or (listed and TEMPLATE not in files):
        return {}
    named = {**values, "chat_template": template.source}
    return {TEMPLATE: template.source.encode(), "tokenizer_config.json": to_json(named)}


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """{"bos": 1, ...}: the ids of those that the tokenizer has."""
    ids = {name: getattr(tokenizer, f"{name}_id") for name in STANDS_FOR}
    return {name: i for name, i in ids.items() if i is not None}


def to_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


# ---------------------------------------------------------------------------------------- the kinds


def _from_json(path: Path, content: bytes, config: Mapping[str, Any]) -> HuggingFaceTokenizer:
    try:
        token = tried(content).id_to_token
        return HuggingFaceTokenizer(content, names_of(path.parent, config, token))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _from_pieces(path: Path, config: Mapping[str, Any]) -> SentencePieceTokenizer:
    content = _read(path)
    added = read_json(path.parent / "added_tokens.json")
    try:
        plain = SentencePieceTokenizer(content)
    except RuntimeError:
        raise UserError(f"{path}: not a SentencePiece model; bring a tokenizer.json") from None
    beyond = sorted(name for name, i in added.items() if i not in range(plain.vocab_size))
    if beyond:
        raise UserError(
            f"{path.parent / 'added_tokens.json'}: adds {beyond[0]!r} to {path.name}, which "
            "SentencePiece cannot hold; write a tokenizer.json where transformers is: "
            'python -c "from transformers import AutoTokenizer as A; '
            "A.from_pretrained('.').save_pretrained('.')\""
        )
    known = lambda i: plain.spelling(i) if 0 <= i < plain.vocab_size else None  # noqa: E731
    try:
        return SentencePieceTokenizer(content, names_of(path.parent, config, known))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _byte_pairs(folder: Path) -> Any:
    """GPT-2's byte-level BPE (Radford et al. 2019) from vocab.json and merges.txt."""
    library = need("tokenizers", "hf", "vocab.json and merges.txt")
    vocabulary = read_json(folder / "vocab.json")
    lines = _read(folder / "merges.txt").decode("utf-8").split("\n")
    merges = [tuple(x.split(" ")) for x in lines if x and not x.startswith("#version")]
    spaced = read_json(folder / "tokenizer_config.json").get("add_prefix_space", False)
    tokenizer = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=merges))
    levels = library.pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    tokenizer.pre_tokenizer, tokenizer.decoder = levels, library.decoders.ByteLevel()
    _add_special(tokenizer, library, folder, vocabulary)
    return tokenizer


def _pieces(folder: Path) -> Any:
    """BERT's WordPiece (Devlin et al. 2018) from vocab.txt, a piece a line."""
    library = need("tokenizers", "hf", "vocab.txt")
    lines = _read(folder / "vocab.txt").decode("utf-8").rstrip("\n").split("\n")
    vocabulary = {piece.rstrip("\r"): i for i, piece in enumerate(lines)}
    said = read_json(folder / "tokenizer_config.json")
    model = library.models.WordPiece(vocab=vocabulary, unk_token=said.get("unk_token", "[UNK]"))
    tokenizer = library.Tokenizer(model)
    tokenizer.normalizer = library.normalizers.BertNormalizer(
        lowercase=said.get("do_lower_case", True),
        strip_accents=said.get("strip_accents"),
        handle_chinese_chars=said.get("tokenize_chinese_chars", True),
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece()
    _add_special(tokenizer, library, folder, vocabulary)
    return tokenizer


def _add_special(tokenizer: Any, library: Any, folder: Path, vocabulary: Mapping[str, int]) -> None:
    """Marks what is not text: the special tokens that are named, or have one of the usual names."""
    added = read_json(folder / "added_tokens.json")
    usual = {name for names in USUAL.values() for name in names} | {"[MASK]", "<mask>"}
    found = names_of(folder, {}, lambda _: None)
    named = {name for name in found.values() if isinstance(name, str)}
    special = [*sorted((usual | named) & vocabulary.keys(), key=vocabulary.__getitem__)]
    special += sorted(added.keys() - vocabulary.keys(), key=added.__getitem__)
    tokenizer.add_special_tokens(
        [library.AddedToken(name, special=True, normalized=False) for name in special]
    )
    moved = [name for name, i in added.items() if tokenizer.token_to_id(name) != i]
    if moved:
        raise UserError(
            f"{folder / 'added_tokens.json'}: {moved[0]!r} has not the next free id; "
            "bring a tokenizer.json"
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; check the file") from None


def keep(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Those of the named files that there are; a name may be a pattern of `Path.glob`."""
    found = (path for name in names for path in sorted(folder.glob(name)) if path.is_file())
    return {path.relative_to(folder).as_posix(): _read(path) for path in found}


def unkept(folder: Path, names: Iterable[str]) -> list[str]:
    """The files of the folder, below it too, that no name or pattern has; hidden ones excepted."""
    kept = {path for name in names for path in folder.glob(name)}
    there = (path for path in sorted(folder.rglob("*")) if path.is_file() and path not in kept)
    paths = [path.relative_to(folder) for path in there]
    return [p.as_posix() for p in paths if not any(part.startswith(".") for part in p.parts)]
