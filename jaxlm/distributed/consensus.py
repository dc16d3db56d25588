"""One decision of all processes of a run, from any thread and without a device.

Small texts travel through the key-value store of the distributed runtime. A collective on the
devices is not safe in a background thread: another host could order it differently with respect to
the collectives of the train step, and all hosts would hang.

    total = decide("rows/7", "12", lambda texts: str(sum(map(int, texts))))
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

_TIMEOUT_SECONDS = 1200


def processes() -> tuple[int, int]:
    """(index of this process, number of processes), without an import of jax."""
    jax = sys.modules.get("jax")
    return (0, 1) if jax is None else (jax.process_index(), jax.process_count())


def store() -> Any:
    """The key-value store of the distributed runtime, which every process of the run shares."""
    from jax._src import distributed  # jax has no public name for it; orbax uses this one too

    client = distributed.global_state.client
    assert client is not None, "several processes without jax.distributed"
    return client


def decide(key: str, mine: str, combine: Callable[[list[str]], str]) -> str:
    """The result of `combine` on the texts of all processes, which process 0 computes for all.

    Every process calls this with the same `key`, which must be new in the run. Raises what
    `combine` raises in process 0, and RuntimeError with its text in the others; also if a process
    does not call it within 20 minutes.
    """
    index, count = processes()
    if count == 1:
        return combine([mine])
    client, limit = store(), _TIMEOUT_SECONDS * 1000
    root = f"jaxlm/{key}"
    if index != 0:
        client.key_value_set(f"{root}/{index}", mine)
        reply = json.loads(client.blocking_key_value_get(f"{root}/all", limit))
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply["value"]
    try:
        texts = [client.blocking_key_value_get(f"{root}/{i}", limit) for i in range(1, count)]
        value = combine([mine, *texts])
    except Exception as error:  # without it the others would wait for the timeout
        client.key_value_set(f"{root}/all", json.dumps({"error": str(error)}))
        raise
    client.key_value_set(f"{root}/all", json.dumps({"value": value}))
    for i in range(1, count):
        client.key_value_delete(f"{root}/{i}")
    return value
