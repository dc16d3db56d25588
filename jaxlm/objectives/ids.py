"""Ids that an objective needs beside those of text: a mask, sentinels, starts.

A config names a token by its id, or as the tokenizer writes it ("[MASK]"). Where it names none, the
usual spellings are looked for. Tokenizers of plain text (bytes, characters, SentencePiece trained
here) have none of these; then ids after the tokenizer's own are taken, from the top of the model's
vocabulary down, as T5 numbers its sentinels (Raffel et al. 2020):

    tokenizer of 259 ids, model.vocab_size 264: <extra_id_0> is 263, <extra_id_1> is 262 ...

They are not text. There must be as many as are needed: nothing changes a model's size unasked.

    choose_ids({"mask": (None, ("[MASK]", "<mask>"))}, tokenizer, model)     # {"mask": 263}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jaxlm.core.config import UserError

if TYPE_CHECKING:
    from jaxlm.core.types import ModelConfig, Tokenizer

Token = int | str | None


def choose_ids(
    wanted: Mapping[str, tuple[Token, Sequence[str]]], tokenizer: Tokenizer, model: ModelConfig
) -> dict[str, int]:
    """The id of each name, from {name: (what the config says, usual spellings)}.

    Raises `UserError` for a token that is not there, for two names that share an id, and where the
    model has too few ids after the tokenizer's.
    """
    found: dict[str, int | None] = {}
    for name, (given, usual) in wanted.items():
        if given is not None:
            found[name] = _given(name, given, tokenizer, model)
        else:
            known = map(tokenizer.id_of, usual)
            found[name] = next((i for i in known if i is not None), None)
    missing = [name for name, i in found.items() if i is None]
    taken = set(found.values())
    spare = range(model.vocab_size - 1, tokenizer.vocab_size - 1, -1)
    free = [i for i in spare if i not in taken]
    if len(free) < len(missing):
        first = missing[len(free)]
        size = model.vocab_size + len(missing) - len(free)
        names = " or ".join(wanted[first][1][:1]) or "such token"
        raise UserError(
            f"objective.{first}: the tokenizer has no {names}, and the model no id left after the "
            f"tokenizer's {tokenizer.vocab_size}; set model.vocab_size to at least {size}, or name "
            "a token of the tokenizer"
        )
    ids = {name: i for name, i in found.items() if i is not None}
    ids |= dict(zip(missing, free, strict=False))
    for name, other in _doubles(ids):
        raise UserError(f"objective.{name}: has the id of {other}, {ids[name]}; name another token")
    return {name: ids[name] for name in wanted}


def _given(name: str, token: int | str, tokenizer: Tokenizer, model: ModelConfig) -> int:
    if isinstance(token, str):
        i = tokenizer.id_of(token)
        if i is None:
            raise UserError(
                f"objective.{name}: the tokenizer has no token {token!r}; name one that it has, or "
                "leave it out"
            )
        return i
    if not 0 <= token < model.vocab_size:
        raise UserError(
            f"objective.{name}: {token} exceeds the model's {model.vocab_size} ids; name one of "
            "them, or raise model.vocab_size"
        )
    return token


def _doubles(ids: Mapping[str, int]) -> list[tuple[str, str]]:
    first: dict[int, str] = {}
    return [(name, first[i]) for name, i in ids.items() if first.setdefault(i, name) != name]
