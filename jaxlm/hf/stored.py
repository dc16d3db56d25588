"""The tensors of a folder of safetensors: what the headers say, and any part of any of them.

    stored = Stored.open(Path("downloads/llama"))
    stored.tensors["lm_head.weight"]                         # dtype BF16, shape, file
    stored.read("lm_head.weight", (slice(0, 8), slice(None)))   # those rows alone

A file is mapped for one read and let go again, so what was read does not stay in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  its import tells numpy what bfloat16 is; jax brings it
import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.errors import few
from jaxlm.core.optional import need

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
CONVERT = (
    'pickles can run code and are not read; convert it where torch is: python -c "import torch; '
    "from safetensors.torch import save_file as s; s({{k: v.clone().contiguous() for n in {names} "
    "for k, v in torch.load(n, weights_only=True).items()}}, 'model.safetensors')\""
)


class Info(NamedTuple):
    """A tensor as a file's header describes it."""

    file: str
    dtype: str  # in safetensors' words: "BF16"
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """A folder's tensors by name."""

    folder: Path
    files: tuple[str, ...]
    tensors: Mapping[str, Info]

    @classmethod
    def open(cls, folder: Path) -> Stored:
        """Reads the headers. Raises `UserError` where a file is missing, damaged or of another
        format.
        """
        index = folder / INDEX
        if index.is_file():
            names = _read_index(index)
            files = tuple(sorted(set(names.values())))
        elif (folder / SINGLE).is_file():
            names, files = {}, (SINGLE,)
        else:
            raise _no_weights(folder)
        absent = [name for name in files if not (folder / name).is_file()]
        if absent:
            raise UserError(
                f"{index}: names files that are not there: {few(absent)}; complete the folder"
            )
        tensors: dict[str, Info] = {}
        for file in files:
            for name, info in _read_header(folder / file, file).items():
                if name in tensors:
                    both = f"{tensors[name].file} and {file}"
                    raise UserError(f"{folder}: {name} is in {both}; remove one")
                tensors[name] = info
        wrong = [name for name, file in names.items() if name not in tensors]
        if wrong:
            raise UserError(
                f"{index}: names tensors that are not in the files: {few(wrong)}; "
                "get the folder again"
            )
        return cls(folder, files, tensors)

    def read(self, name: str, part: Sequence[slice]) -> np.ndarray:
        """The part of a tensor, in its own dtype."""
        path = self.folder / self.tensors[name].file
        with _opened(path) as file:
            if not part:
                return file.get_tensor(name)
            return file.get_slice(name)[tuple(part)]

    @property
    def largest_file(self) -> int:
        """Bytes of the largest file."""
        return max((self.folder / name).stat().st_size for name in self.files)


def open_file(path: Path) -> dict[str, np.ndarray]:
    """All tensors of one file, in their dtypes. Raises `UserError` if it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path}: is missing; pickles (.bin) are not read, save it as safetensors")
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping


def listed(names: Sequence[str]) -> str:
    """All names; of those that differ in their numbers alone, one with how many they are."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\.\d+(?=\.)", ".*", name), []).append(name)
    return ", ".join(
        same[0] if len(same) == 1 else f"{kind} ({len(same)})" for kind, same in kinds.items()
    )


def _read_index(path: Path) -> dict[str, str]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        assert names and all(Path(file).name == file for file in names.values())
        return dict(names)
    except (OSError, ValueError, KeyError, AssertionError, AttributeError, TypeError):
        raise UserError(f"{path}: is not an index of safetensors; get the file again") from None


def _read_header(path: Path, name: str) -> dict[str, Info]:
    with _opened(path) as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  no mapping
        return {
            key: Info(name, part.get_dtype(), tuple(part.get_shape()))
            for key, part in slices.items()
        }


def _opened(path: Path) -> Any:
    library = need("safetensors", "hf", "a file of safetensors")
    try:
        return library.safe_open(str(path), framework="numpy")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; check the file") from None
    except library.SafetensorError as error:
        raise UserError(f"{path}: is damaged or no safetensors ({error}); get it again") from None


def _weights(pickles: Sequence[str]) -> list[str]:
    """The files of one model: all shards of the first kind, else the first file."""
    parts = [name for name in pickles if re.search(r"-\d+-of-\d+\.", name)]
    return parts or [*pickles[:1]]


def _no_weights(folder: Path) -> UserError:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        return UserError(
            f"{folder}: holds {few(pickles)}; {CONVERT.format(names=_weights(pickles))}"
        )
    return UserError(
        f"{folder}: holds neither {SINGLE} nor {INDEX}; name a folder with a model in safetensors"
    )
