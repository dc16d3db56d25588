"""Every text comes back: property tests on random Unicode, for every kind of tokenizer."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import string
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxlm.core.config import UserError, parse, to_dict
from jaxlm.core.types import Tokenizer, TokenizerConfig
from jaxlm.data.tokenizers import sentencepieces
from jaxlm.data.tokenizers.base import META, Bytes, Saved, load_tokenizer
from jaxlm.data.tokenizers.characters import Characters
from jaxlm.data.tokenizers.huggingface import HuggingFace, HuggingFaceTokenizer
from jaxlm.data.tokenizers.sentencepieces import SentencePiece, SentencePieceTokenizer
from jaxlm.data.tokenizers.words import Words

HARD = [
    "",
    " ",
    "   leading, trailing and  inner   ",
    "\n",
    "\n\n\n a\n\n\n\n\tb\r\n\r",
    "\t\t x",
    "\x01\x02\x1f\x7f\x85\xa0\u200b\u2028\ufeff\ufffd\ufffe",
    "\u2581 \u2581\u2581a\u2581 b \u2581",  # what SentencePiece writes for a space
    "\u2585\u2047 ??",  # its marks of unknowns
    "<s></s><unk><pad><0x41> <|endoftext|>[PAD] <s>",
    "e\u0301 \u0301 \u212b \ufb01 \uff21",  # what normalisation would change
    "🙂👩‍👩‍👧‍👦🇩🇪",
    "中文，日本語 हिन्दी العربية",
    "1234567 -3.5e-7 0x1F",
    "def f(x):\n        return  x\n",
    "a" * 3000 + " " * 300,
]
WORDS = [
    "a",
    "x",
    "(",
    ")",
    ",",
    ";",
    "12",
    "345",
    "the",
    "cat",
    "mat",
    "to",
    "be",
    "or",
    "not",
    "be\tthat",
    "",
]


def random_texts(seed: int, count: int) -> list[str]:
    """Words, spaces, and characters of all planes; no surrogates, which are not characters."""
    rng = random.Random(seed)

    def character() -> str:
        while True:
            kind = rng.random()
            high = 0x80 if kind < 0.4 else 0x3000 if kind < 0.7 else 0x110000
            c = chr(rng.randrange(1, high))
            if unicodedata.category(c) != "Cs":
                return c

    pieces = [
        lambda: rng.choice(WORDS),
        lambda: rng.choice([" ", "  ", "\n", "\n\n", "\t", "\u2581", "</s>", "<s>", "<0x0A>"]),
        character,
    ]
    return ["".join(rng.choice(pieces)() for _ in range(rng.randrange(40))) for _ in range(count)]


def corpus() -> Iterator[str]:
    rng = random.Random(0)
    for _ in range(40):
        lines = [" ".join(rng.choices(WORDS, k=rng.randrange(1, 12))) for _ in range(20)]
        yield "\n".join(lines) + "\n\n    indented = '<s>' # é\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@functools.cache  # training breaks ties by chance
def huggingface_json(kind: str) -> str:
    """A small tokenizer.json of the kind, trained here."""
    library = pytest.importorskip("tokenizers")
    decoders, models = library.decoders, library.models
    options = {"vocab_size": 400, "show_progress": False}
    if kind == "byte-level":
        tokenizer = library.Tokenizer(models.BPE())
        byte_level = library.pre_tokenizers.ByteLevel
        tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            special_tokens=["<|endoftext|>"], initial_alphabet=byte_level.alphabet(), **options
        )
        tokenizer.train_from_iterator(corpus(), trainer)
    elif kind == "byte-fallback":
        specials = ["<unk>", "<s>", "</s>"]
        tokens = [*specials, *(f"<0x{b:02X}>" for b in range(256)), "\u2581", "t", "h", "th"]
        tokenizer = library.Tokenizer(
            models.BPE(
                vocab={t: i for i, t in enumerate(tokens)},
                merges=[("t", "h")],
                unk_token="<unk>",
                byte_fallback=True,
                fuse_unk=True,
            )
        )
        tokenizer.add_special_tokens(specials)
        tokenizer.normalizer = library.normalizers.Replace(" ", "\u2581")
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    else:
        tokenizer = library.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        tokenizer.train_from_iterator(
            corpus(), library.trainers.WordPieceTrainer(special_tokens=names, **options)
        )
    return tokenizer.to_str()


def make(name: str, cache: Path) -> Tokenizer:
    if name.startswith("hf"):
        kind = name.partition(" ")[2]
        path = cache / kind / "tokenizer.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(huggingface_json(kind), encoding="utf-8")
        return HuggingFace(path=str(path)).build(corpus, "corpus", cache)
    configs: dict[str, TokenizerConfig] = {
        "bytes": Bytes(),
        "characters": Characters(),
        "bpe": SentencePiece(vocab_size=330),
        "unigram": SentencePiece(vocab_size=310, model_type="unigram"),
    }
    return configs[name].build(corpus, "corpus", cache)  # type: ignore[attr-defined]


LOSSLESS = ["bytes", "characters", "bpe", "unigram", "hf byte-level"]


@pytest.mark.parametrize("name", LOSSLESS)
def test_every_text_comes_back(name, cache):
    tokenizer = make(name, cache)
    assert tokenizer.lossless
    texts = [*HARD, *random_texts(1, 400), *corpus()]
    encoded = tokenizer.encode_batch(texts)
    special = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}
    for text, ids in zip(texts, encoded, strict=True):
        assert ids == tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert b"".join(tokenizer.token_bytes[i] for i in ids) == text.encode()
        assert special.isdisjoint(ids)
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
        assert all(type(i) is int for i in ids)


@pytest.mark.parametrize("name", [*LOSSLESS, "hf byte-fallback", "hf word-piece"])
def test_save_and_load(name, cache, tmp_path):
    tokenizer = make(name, cache)
    tokenizer.save(tmp_path / "run" / "tokenizer")
    other = load_tokenizer(tmp_path / "run" / "tokenizer")
    for attribute in (
        "vocab_size",
        "bos_id",
        "eos_id",
        "pad_id",
        "unk_id",
        "token_bytes",
        "lossless",
    ):
        assert getattr(other, attribute) == getattr(tokenizer, attribute)
    assert other.fingerprint() == tokenizer.fingerprint()
    texts = random_texts(2, 50)
    assert other.encode_batch(texts) == tokenizer.encode_batch(texts)
    for folder in ("run", "run/tokenizer"):
        saved = Saved(path=str(tmp_path / folder))
        assert saved.build(corpus, "", cache).fingerprint() == tokenizer.fingerprint()
    for file in (tmp_path / "run" / "tokenizer").iterdir():
        if file.name != META:
            file.write_bytes(file.read_bytes() + b"\n")
            with pytest.raises(UserError, match="changed since it was saved"):
                load_tokenizer(file.parent)
            break


@pytest.mark.parametrize("name", LOSSLESS)
def test_special_ids_add_nothing_and_halves_show(name, cache):
    tokenizer = make(name, cache)
    for i in (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id):
        assert tokenizer.token_bytes[i] == b""
    ids = [tokenizer.bos_id, *tokenizer.encode("to be"), tokenizer.pad_id, tokenizer.eos_id]
    assert tokenizer.decode(ids) == "to be"
    emoji = tokenizer.encode("🙂")
    assert len(emoji) > 1 and "\ufffd" in tokenizer.decode(emoji[:-1])
    for wrong in (tokenizer.vocab_size, -1):
        with pytest.raises(UserError, match=f"token {wrong} is not in the tokenizer's vocabulary"):
            tokenizer.decode([wrong])


def test_fingerprints_differ(cache):
    prints = [make(name, cache).fingerprint() for name in LOSSLESS]
    assert len(set(prints)) == len(prints)


def test_load_errors(tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer .*jaxlm_tokenizer.json is missing"):
        load_tokenizer(tmp_path)
    os.mkfifo(tmp_path / META)  # whoever opens it waits for a writer
    with pytest.raises(UserError, match="cannot be read .*is not a regular file"):
        load_tokenizer(tmp_path)
    (tmp_path / META).unlink()
    (tmp_path / META).write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(tmp_path)
    (tmp_path / META).write_text(json.dumps({"kind": "morse", "files": [], "sha256": ""}))
    with pytest.raises(UserError, match="unknown kind 'morse'"):
        load_tokenizer(tmp_path)


# ---------------------------------------------------------------------------------- characters


def test_characters(cache, tmp_path):
    tokenizer = Characters().build(corpus, "corpus", cache)
    known = sorted(set("".join(corpus())))
    assert tokenizer.vocab_size == 3 + len(known) + 256
    assert tokenizer.encode("".join(known)) == list(range(3, 3 + len(known)))
    assert len(tokenizer.encode("é漢")) == 1 + 3
    strict = Characters(byte_fallback=False).build(corpus, "corpus", cache)
    assert strict.vocab_size == 3 + len(known)
    assert strict.decode(strict.encode("the cat é")) == "the cat é"
    with pytest.raises(UserError, match=r"character '漢' \(U\+6F22\) .* byte_fallback: true"):
        strict.encode("the 漢")


# ------------------------------------------------------------------------------- sentencepiece


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_training_is_deterministic_and_cached(model_type, tmp_path, monkeypatch):
    config = SentencePiece(vocab_size=310, model_type=model_type)
    trainings = []
    original = sentencepieces.train_model
    monkeypatch.setattr(
        sentencepieces, "train_model", lambda *args: trainings.append(1) or original(*args)
    )
    prints = {config.build(corpus, "a", tmp_path / str(n)).fingerprint() for n in range(2)}
    assert len(prints) == 1 and len(trainings) == 2
    assert {config.build(corpus, "a", tmp_path / "0").fingerprint()} == prints
    assert len(trainings) == 2  # from the cache
    config.build(corpus, "b", tmp_path / "0")
    config.replace(split_digits=False).build(corpus, "a", tmp_path / "0")
    assert len(trainings) == 4  # another corpus, another config


def test_common_words_are_single_pieces(cache):
    """It does learn: fewer ids than characters, digits and line breaks alone."""
    tokenizer = SentencePiece(vocab_size=330).build(corpus, "corpus", cache)
    assert tokenizer.vocab_size == 330
    text = "".join(corpus())
    assert len(tokenizer.encode(text)) < 0.5 * len(text)
    pieces = [tokenizer.token_bytes[i] for i in tokenizer.encode("cat cat\n\n12")]
    assert b" cat" in pieces and pieces[-3:] == [b"\n\n", b"1", b"2"]


def test_long_texts_are_encoded_in_pieces_to_the_same_ids(cache, monkeypatch):
    tokenizer = SentencePiece(vocab_size=330).build(corpus, "corpus", cache)
    assert tokenizer._chunk == sentencepieces.SHORT_CHUNK
    texts = [*corpus(), "\n\n\n\n" * 10, "no break at all " * 20, *HARD, *random_texts(3, 100)]
    whole = tokenizer.encode_batch(texts)
    for text, ids in zip(texts, whole, strict=True):
        assert tokenizer.encode(text) == ids
        if sentencepieces.SPACE not in text:
            assert tokenizer._processor.encode(text) == ids  # the library, of the text as a whole
    for size in (1, 5, 50):
        monkeypatch.setattr(tokenizer, "_chunk", size)
        monkeypatch.setattr(sentencepieces, "MAX_CHUNK", size)  # so that threads share them
        assert tokenizer.encode_batch(texts) == whole


def test_short_pieces_are_for_models_whose_ids_they_cannot_change(cache, monkeypatch):
    """A unigram model sums scores over a text; one from elsewhere may have rules for spaces."""
    unigram = SentencePiece(vocab_size=300, model_type="unigram").build(corpus, "corpus", cache)
    assert unigram._chunk == sentencepieces.MAX_CHUNK
    bpe = SentencePiece(vocab_size=330).build(corpus, "corpus", cache)
    assert bpe._cuts_anywhere()
    joined = [*bpe.token_bytes[:-1], b"a\n"]
    monkeypatch.setattr(bpe, "token_bytes", joined)
    assert not bpe._cuts_anywhere()


def test_a_large_corpus_is_sampled_evenly():
    lines = [f"line {n}" for n in range(20_000)]
    texts = lambda: iter(["\n".join(lines[:9000]), "\n".join(lines[9000:])])  # noqa: E731
    assert list(sentencepieces.sample_lines(texts, 10**9)) == lines
    some = list(sentencepieces.sample_lines(texts, sum(map(len, lines)) // 4))
    assert 0.22 < len(some) / len(lines) < 0.28
    early = sum(int(line.split()[1]) < 10_000 for line in some)
    assert 0.45 < early / len(some) < 0.55
    assert "".join(sentencepieces.sample_lines(lambda: iter(["x" * 10_001]), 10**9)) == "x" * 10_001


def test_training_errors_name_a_size_that_works(tmp_path):
    with pytest.raises(
        UserError, match=r"too large for this corpus; set it to \d+ or less"
    ) as error:
        SentencePiece(vocab_size=5000).build(corpus, "a", tmp_path)
    most = int(str(error.value).split()[-3])
    tokenizer = SentencePiece(vocab_size=most).build(corpus, "a", tmp_path)
    assert tokenizer.vocab_size == most
    many = lambda: iter(["".join(map(chr, range(0x4E00, 0x4E00 + 200)))])  # noqa: E731
    with pytest.raises(UserError, match=r"too small for the characters .* set it to \d+ or more"):
        SentencePiece(vocab_size=300).build(many, "a", tmp_path)
    with pytest.raises(UserError, match="training failed .* check that the corpus holds text"):
        SentencePiece(vocab_size=300).build(lambda: iter([]), "a", tmp_path)
    with pytest.raises(UserError, match="vocab_size 100 is too small; set it to 264 or more"):
        parse(TokenizerConfig, {"type": "sentencepiece", "vocab_size": 100})
    assert not list(tmp_path.glob("tokenizers/.training-*"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't look, 看山", ["don", "'", "t", "look", ",", "看", "山"]),
        ("3星酒店A座", ["3", "星", "酒", "店", "a", "座"]),
        ("カメラ2台, v2_é1", ["カ", "メ", "ラ", "2", "台", ",", "v2", "_", "é1"]),
        ("중국 中國어", ["중국", "中", "國", "어"]),
    ],
)
def test_a_chinese_or_japanese_character_is_a_word_after_digits_too(text, words, tmp_path):
    tokenizer = Words().build(lambda: iter([text]), "corpus", tmp_path)
    assert list(tokenizer.split(text)) == words


@pytest.mark.parametrize("unit", ["word", "character"])
def test_a_vocabulary_of_no_words_is_a_users_error(unit, tmp_path):
    def build(*texts, **settings):
        config = Words(unit=unit, **settings)
        return config.build(lambda: iter(texts), "corpus", tmp_path)

    with pytest.raises(UserError, match=f"min_count: 9, and no {unit} .* to at most 3$"):
        build("a a a b", min_count=9) if unit == "word" else build("aaab", min_count=9)
    with pytest.raises(UserError, match=f"tokenizer: the training texts have no {unit}"):
        build("", "")


def test_what_a_killed_training_left_is_removed(tmp_path, monkeypatch):
    """Killed while the files are written: the next training leaves the tokenizer alone."""
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        patch.setattr(os, "rename", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            SentencePiece(vocab_size=300).build(corpus, "a", tmp_path)
    assert list(tmp_path.glob("tokenizers/.training-*"))
    SentencePiece(vocab_size=300).build(corpus, "a", tmp_path)
    assert not list(tmp_path.glob("tokenizers/.training-*"))


def test_without_byte_fallback_the_unknown_shows(tmp_path):
    config = SentencePiece(vocab_size=70, byte_fallback=False)
    tokenizer = config.build(corpus, "a", tmp_path)
    assert not tokenizer.lossless and tokenizer.unk_id is not None
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"
    ids = tokenizer.encode("the 漢 \u2581")
    assert ids.count(tokenizer.unk_id) == 2
    assert tokenizer.decode(ids) == "the \ufffd \ufffd"


def test_model_files_from_elsewhere(tmp_path):
    """Llama's kind of model, with a space before every text: its own ids, the text comes back."""
    library = pytest.importorskip("sentencepiece")
    import io

    model = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=(line for text in corpus() for line in text.split("\n") if line),
        model_writer=model,
        vocab_size=350,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=4,
    )
    path = tmp_path / "tokenizer.model"
    path.write_bytes(model.getvalue())
    tokenizer = SentencePiece(path=str(path)).build(corpus, "", tmp_path)
    reference = library.SentencePieceProcessor(model_proto=model.getvalue())
    for text in ("the cat", "to be  or\nnot", "é漢"):
        assert tokenizer.encode(text) == reference.encode(text)
    assert not tokenizer.lossless
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
    path.write_text("not a model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        SentencePiece(path=str(path)).build(corpus, "", tmp_path)
    with pytest.raises(UserError, match="No such file.*name a SentencePiece .model file"):
        SentencePiece(path=str(tmp_path / "none")).build(corpus, "", tmp_path)


def test_a_model_whose_rules_remove_the_letter_a(tmp_path):
    library = pytest.importorskip("sentencepiece")
    import io

    rules, model = tmp_path / "rules.tsv", io.BytesIO()
    rules.write_text("61\t\n")
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(["b c d"] * 20),
        model_writer=model,
        vocab_size=8,
        model_type="char",
        normalization_rule_tsv=str(rules),
        minloglevel=4,
    )
    tokenizer = SentencePieceTokenizer(model.getvalue())
    assert tokenizer.encode("a") == [] and tokenizer.adds_space


# --------------------------------------------------------------------------------- huggingface


def test_a_text_grows_unless_a_decoder_changes_what_is_joined():
    library = pytest.importorskip("tokenizers")
    make, model = library.decoders, library.models.WordLevel({"do": 0, "n": 1, "'": 2, "t": 3}, "n")

    def grows(*decoders: object) -> bool:
        tokenizer = library.Tokenizer(model)
        tokenizer.decoder = make.Sequence([*decoders])
        found = HuggingFaceTokenizer(tokenizer.to_str().encode(), {})
        texts = [found.decode(range(n)) for n in range(5)]
        assert not found.grows or all(map(str.startswith, texts[1:], texts))
        return found.grows

    assert grows(make.WordPiece())  # its clean-up is of each token by itself
    assert grows(make.Replace("n'", "x"), make.Fuse(), make.Strip("d", 1, 0))
    assert grows(make.Fuse(), make.Replace("\u2581", " "))
    assert not grows(make.Fuse(), make.Replace("n't", "NOT"))
    assert not grows(make.Fuse(), make.Replace(library.Regex("n.t"), "NOT"))
    assert not grows(make.WordPiece(), make.Fuse(), make.WordPiece())


def test_a_vocabulary_without_the_letter_a():
    library = pytest.importorskip("tokenizers")
    tokenizer = library.Tokenizer(library.models.BPE(vocab={"b": 0, "c": 1}, merges=[]))
    found = HuggingFaceTokenizer(tokenizer.to_str().encode(), {})
    assert found.encode("a") == [] and found.encode("b") == [0] and not found.adds_space
    tokenizer.pre_tokenizer = library.pre_tokenizers.Metaspace()
    tokenizer.decoder = library.decoders.Metaspace()
    tokenizer.model = library.models.BPE(vocab={"\u2581": 0, "b": 1}, merges=[])
    assert HuggingFaceTokenizer(tokenizer.to_str().encode(), {}).adds_space
    words = library.Tokenizer(library.models.WordLevel({"b": 0}, unk_token="[UNK]"))
    with pytest.raises(UserError, match="cannot be encoded .WordLevel error: Missing .UNK.*; fix"):
        HuggingFaceTokenizer(words.to_str().encode(), {})


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback", "word-piece"])
def test_huggingface_agrees_with_the_library(kind, cache):
    tokenizer = make(f"hf {kind}", cache)
    library = pytest.importorskip("tokenizers")
    reference = library.Tokenizer.from_str(huggingface_json(kind))
    rng = random.Random(0)
    texts = ["".join(rng.choices(string.printable, k=30)) for _ in range(50)] + [
        "the cat\nthe  mat"
    ]
    for text in texts:
        ids = reference.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == reference.decode(ids)
    assert tokenizer.lossless == (kind == "byte-level")


def test_huggingface_bytes_and_special_tokens(cache):
    tokenizer = make("hf byte-fallback", cache)
    ids = tokenizer.encode("th é </s>")
    assert b"".join(tokenizer.token_bytes[i] for i in ids) == "th é </s>".encode()
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id) == (1, 2, 2, 0)
    assert tokenizer.eos_id not in ids
    word_piece = make("hf word-piece", cache)
    assert (word_piece.bos_id, word_piece.eos_id, word_piece.pad_id) == (2, 3, 0)


def test_huggingface_names_its_special_tokens(cache, tmp_path):
    (tmp_path / "tokenizer.json").write_text(huggingface_json("word-piece"), encoding="utf-8")
    values = {"pad_token": "[UNK]", "eos_token": {"content": "[CLS]"}, "bos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
    tokenizer = HuggingFace(path=str(tmp_path), bos="[SEP]").build(corpus, "", cache)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (3, 2, 1)
    with pytest.raises(UserError, match=r"has no eos token '\[EOS\]'"):
        HuggingFace(path=str(tmp_path), eos="[EOS]").build(corpus, "", cache)
    with pytest.raises(UserError, match="name a tokenizer.json"):
        HuggingFace(path=str(tmp_path / "none")).build(corpus, "", cache)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer.json"):
        HuggingFace(path=str(tmp_path)).build(corpus, "", cache)


@pytest.mark.parametrize(
    ("values", "bos", "adds"),
    [
        ({"bos_token": None}, None, False),  # as Qwen's
        ({"bos_token": "<s>", "add_bos_token": True}, 1, True),
        ({"bos_token": "<s>", "add_bos_token": False}, 1, False),
        ({"bos_token": "<s>"}, 1, False),  # there is no post-processor
    ],
)
def test_one_folder_is_one_tokenizer(values, bos, adds, cache, tmp_path):
    from jaxlm.hf.vocabularies import read_tokenizer

    (tmp_path / "tokenizer.json").write_text(huggingface_json("byte-fallback"), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
    (tmp_path / "config.json").write_text('{"bos_token_id": 2, "eos_token_id": [2, 0]}')
    named = HuggingFace(path=str(tmp_path)).build(corpus, "", cache)
    imported = read_tokenizer(tmp_path, {"bos_token_id": 2, "eos_token_id": [2, 0]})
    assert named.fingerprint() == imported.fingerprint()
    named.save(tmp_path / "saved")
    for tokenizer in (named, imported, load_tokenizer(tmp_path / "saved")):
        assert (tokenizer.bos_id, tokenizer.eos_id) == (bos, 2)
        assert tokenizer.adds_bos is adds


def test_a_post_processor_says_what_begins_a_text(cache, tmp_path):
    spec = json.loads(huggingface_json("byte-fallback"))
    piece = {"Sequence": {"id": "A", "type_id": 0}}
    mark = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [mark, piece],
        "pair": [mark, piece, piece],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = HuggingFace(path=str(tmp_path)).build(corpus, "", cache)
    assert (tokenizer.adds_bos, tokenizer.adds_eos) == (True, False)


def test_configs_survive_yaml():
    for config in (Bytes(), Characters(), SentencePiece(), HuggingFace(path="x"), Saved(path="x")):
        assert parse(TokenizerConfig, to_dict(config)) == config
