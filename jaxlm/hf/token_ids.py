"""The ids with a meaning that a folder's config.json and generation_config.json name.

    lacking_ids(folder, values, 83)    # ["config.json: bos_token_id 50256"]: ids that nothing has
    eos_ids(folder, values, 83)        # [2, 5]: what ends a text

transformers writes the ids of the published model for a smaller vocabulary too. Such a token never
occurs; the user is told. A start beyond the vocabulary is an error, as it is read by the model.
Tokenizers name special tokens by their spelling, which `jaxlm.data.tokenizers.special_tokens`
reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown
from jaxlm.data.tokenizers.special_tokens import read_json

START, ENDS = "decoder_start_token_id", "eos_token_id"  # of several ends there may be a list
NAMES = ("bos_token_id", ENDS, "pad_token_id", START)


def lacking_ids(folder: Path, values: Mapping[str, Any], vocab_size: int) -> list[str]:
    """The keys that name an id that the model lacks; `values` are config.json's.

    Raises `UserError` for a value that is not an id, and for a start that the model does not have.
    """
    found = []
    for path, said in _files(folder, values):
        for name in NAMES:
            for i in _ids(path, name, said.get(name)):
                if 0 <= i < vocab_size:
                    continue
                if name == START:
                    raise UserError(
                        f"{path}: {name} is {i}, but the model has the ids 0 to {vocab_size - 1} "
                        "(vocab_size); take the file that came with the model"
                    )
                found.append(f"{path.name}: {name} {i}")
    return found


def eos_ids(folder: Path, values: Mapping[str, Any], vocab_size: int) -> list[int]:
    """The ids that end a text, by generation_config.json, else config.json; empty: by neither."""
    for path, said in reversed(_files(folder, values)):
        if said.get(ENDS) is not None:
            return [i for i in _ids(path, ENDS, said[ENDS]) if 0 <= i < vocab_size]
    return []


def _files(folder: Path, values: Mapping[str, Any]) -> list[tuple[Path, Mapping[str, Any]]]:
    generation = folder / "generation_config.json"
    return [(folder / "config.json", values), (generation, read_json(generation))]


def _ids(path: Path, name: str, said: Any) -> list[int]:
    ids = said if isinstance(said, list) and name == ENDS else [] if said is None else [said]
    if not all(type(i) is int for i in ids):
        kind = "an id or a list of ids" if name == ENDS else "an id"
        raise UserError(f"{path}: {name} is {shown(said)}; it must be {kind}, or null for none")
    return ids
