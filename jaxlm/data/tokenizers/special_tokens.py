"""The names in a Hugging Face folder of the tokens that begin, end and fill a text.

    names_of(folder, config, token)     # {"bos": None, "eos": "<|im_end|>", "add_bos_token": False}

tokenizer_config.json says it, else special_tokens_map.json, else config.json by ids. A null says
that there is no such token. `jaxlm import hf` and a tokenizer of type huggingface both read it
here, so that one folder gives one tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxlm.core.config import UserError

# The token that does what ours does where the first is not named: BERT's texts begin with [CLS].
STANDS_FOR = {"bos": ("bos", "cls"), "eos": ("eos", "sep"), "pad": ("pad",), "unk": ("unk",)}

# {"bos": "<s>", "pad": None}: None where the files say so; and whether a text begins
# with bos and ends with eos ("add_bos_token", "add_eos_token"), if tokenizer_config.json says so.
Names = dict[str, Any]


def names_of(folder: Path, config: Mapping[str, Any], token: Callable[[int], str | None]) -> Names:
    """The special tokens' names in the folder's files; `token` spells an id of config.json."""
    names: Names = {}
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        values = read_json(folder / file)
        for name, keys in STANDS_FOR.items():
            said = [values[f"{key}_token"] for key in keys if f"{key}_token" in values]
            given = [v["content"] if isinstance(v, dict) else v for v in said if v is not None]
            if said and names.get(name) is None:
                names[name] = given[0] if given else names.get(name)
    said_of = read_json(folder / "tokenizer_config.json")
    for key in ("add_bos_token", "add_eos_token"):
        if isinstance(said_of.get(key), bool):
            names[key] = said_of[key]
    for name in STANDS_FOR:
        i = config.get(f"{name}_token_id")
        i = i[0] if isinstance(i, list) and i else i
        if name not in names and isinstance(i, int):
            spelt = token(i)
            names |= {} if spelt is None else {name: spelt}
    return names


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no such file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; check the file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); get the file again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no JSON object; get the file again")
    return values
