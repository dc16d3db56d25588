"""Arrays of a checkpoint as numpy arrays, without jax: Orbax's files are read by tensorstore.

    for path, array in arrays_on_host(run.checkpoints / "00000100", "params/"):
        ...

Orbax keeps arrays as Zarr 3 in one OCDBT database, under their paths with "." for "/".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxlm.checkpoint.state_io import ARRAYS, read_metadata


def arrays_on_host(folder: Path, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays whose path begins with `prefix`, which is left out, in the order of their paths.

    One is on the host at a time. Raises `UserError` for a folder without a checkpoint.
    """
    import tensorstore

    metadata = read_metadata(folder)
    base = f"file://{(folder / ARRAYS / 'state').absolute()}"
    context = tensorstore.Context()
    for path in sorted(metadata.arrays):
        if path.startswith(prefix):
            name = metadata.stored.get(path, path).replace("/", ".")
            kvstore = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
            spec = {"driver": "zarr3", "kvstore": kvstore}
            array = tensorstore.open(spec, open=True, read=True, context=context).result()
            yield path.removeprefix(prefix), np.asarray(array.read().result())
