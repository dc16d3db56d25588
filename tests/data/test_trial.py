"""A tokenizer.json whose regular expressions do not end, or panic, is one line in a short time."""

from __future__ import annotations

import json
import time

import pytest

from jaxlm.core.config import UserError
from jaxlm.data.tokenizers import trial
from jaxlm.data.tokenizers.huggingface import HuggingFace, HuggingFaceTokenizer

pytest.importorskip("tokenizers")

GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CLIP = r"<\|startoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
BLOOM = r" ?[^(\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"


def spec(place: str = "pre_tokenizer", pattern: str = "") -> dict:
    regex = {"Regex": pattern}
    replace = {"type": "Replace", "pattern": regex, "content": "b"}
    parts = {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": regex,
            "behavior": "Isolated",
            "invert": False,
        },
        "normalizer": replace,
        "decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}, replace]},
    }
    vocab = {chr(n): n for n in range(256)}
    return {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
        **({place: parts[place]} if pattern else {}),
    }


def build(folder, values: dict):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(values))
    return HuggingFace(path=str(path)).build([], "", folder)


@pytest.mark.parametrize("pattern", [GPT4, CLIP, BLOOM])
def test_patterns_of_real_tokenizers_are_taken(tmp_path, pattern):
    tokenizer = build(tmp_path, spec(pattern=pattern))
    assert tokenizer.encode("ab") == [97, 98]


@pytest.mark.parametrize("place", ["pre_tokenizer", "normalizer", "decoder"])
def test_a_pattern_that_panics_is_one_line(tmp_path, capfd, place):
    with pytest.raises(UserError) as error:
        build(tmp_path, spec(place, "(a+)+$"))
    line = str(error.value)
    assert line.startswith(f"{tmp_path}/tokenizer.json: a regular expression of its normalizer, ")
    assert "fails for a text that begins with 'aaaa' (Onig: Regex search error" in line
    assert "\n" not in line and capfd.readouterr().err == ""


@pytest.mark.parametrize("pattern", [r"(a|aa)+$", r"(\w+\s?)+$", r"(x|xx)*y", r"(\s*\n)+;"])
def test_such_a_pattern_need_not_have_nested_repeats_or_an_a(pattern):
    with pytest.raises(UserError, match=r"fails for a text|takes more than"):
        trial.try_out(json.dumps(spec(pattern=pattern)).encode())


def test_a_pattern_that_is_endless_without_a_panic_has_a_limit(monkeypatch):
    monkeypatch.setattr(trial, "CPU_SECONDS", 1)
    # of the 64 places, each takes a little less than the library's limit of retries
    content = json.dumps(spec(pattern=r"(?:a|aa){0,22}$")).encode()
    start = time.perf_counter()
    with pytest.raises(UserError, match="takes more than 1 s for a short text; write it without"):
        trial.try_out(content)
    assert time.perf_counter() - start < 60


def test_a_panic_for_another_text_is_one_line_too(tmp_path):
    content = json.dumps(spec(pattern="(?:xyz(?:xyz)*)*\u00e5")).encode()
    tokenizer = HuggingFaceTokenizer(content, {})
    for act in (tokenizer.encode, lambda text: tokenizer.encode_batch([text, "a"])):
        with pytest.raises(
            UserError, match=r"tokenizer\.json: a text cannot be encoded: .* panics"
        ):
            act("xyz" * 60 + "!\u00e5")
