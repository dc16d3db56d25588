"""A published GRU encoder-decoder says made-up words as its own code does."""

from __future__ import annotations

import ast
import io
import random
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from jaxlm.core.config import UserError

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import import_g2p

METHODS = ("sigmoid", "grucell", "gru", "encode", "predict")


def its_own(source: str, weights: bytes):
    """The package's class with only what `predict` needs: nothing of it asks for nltk."""
    tree = ast.parse(source)
    (cls,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "G2p")
    functions = {node.name: node for node in cls.body if isinstance(node, ast.FunctionDef)}
    lists = [n for n in functions["__init__"].body if isinstance(n, ast.Assign)]
    names = ("graphemes", "phonemes", "g2idx", "idx2g", "p2idx", "idx2p")
    functions["__init__"].body = [n for n in lists if n.targets[0].attr in names]
    cls.body = [functions[name] for name in ("__init__", *METHODS)]
    scope = {"np": np}
    exec(compile(ast.Module([cls], []), "g2p.py", "exec"), scope)
    g2p = scope["G2p"]()
    with np.load(io.BytesIO(weights)) as arrays:
        vars(g2p).update(dict(arrays))
    return g2p


def made_up_words(count: int) -> list[str]:
    """Words of syllables, and some of letters alone, an unknown sign among them."""
    rng = random.Random(0)
    words: set[str] = set()
    while len(words) < count:
        syllables = [
            rng.choice("bcdfghjklmnpqrstvwxz") + rng.choice("aeiouy") + rng.choice(["", *"nrstl"])
            for _ in range(rng.randint(1, 5))
        ]
        letters = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz'", k=rng.randint(1, 14)))
        words.add("".join(syllables) if rng.random() < 0.7 else letters)
    return sorted(words)


def test_words_are_said_as_the_package_says_them():
    try:
        files = import_g2p.members()
    except UserError as error:
        pytest.skip(f"offline: {error}")
    weights = files["g2p_en/checkpoint20.npz"]
    theirs = its_own(files["g2p_en/g2p.py"].decode(), weights)
    assert isinstance(theirs.predict, types.MethodType)
    assert theirs.graphemes == import_g2p.GRAPHEMES and theirs.phonemes == import_g2p.PHONEMES
    words = ["activationist", *made_up_words(300)]
    found = import_g2p.pronounce(import_g2p.parameters(weights), words)
    expected = [theirs.predict(word) for word in words]
    assert found == expected
    assert len({tuple(said) for said in found}) > 250
