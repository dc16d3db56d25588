"""How the processes of a run come to one decision from any thread, without touching a device.

The distributed runtime's key-value store carries small texts between processes. A collective on
the devices would do as well, but not from a background thread: it could meet the train step's
collectives in another order on another host, and hang them all.

    total = decide("rows/7", "12", lambda texts: str(sum(map(int, texts))))
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

_TIMEOUT_SECONDS = 1200


def processes() -> tuple[int, int]:
    """(index of this process, number of processes), without importing jax where nobody has yet."""
    jax = sys.modules.get("jax")
    return (0, 1) if jax is None else (jax.process_index(), jax.process_count())


def store() -> Any:
    """The key-value store of the distributed runtime, which every process of the run shares."""
    from jax._src import distributed  # jax has no public name for it; orbax uses this one too

    client = distributed.global_state.client
    assert client is not None, "several processes without jax.distributed"
    return client


def decide(key: str, mine: str, combine: Callable[[list[str]], str]) -> str:
    """What `combine`, run in process 0, makes of every process's text; the same in all of them.

    Every process calls this with the same `key`, which must be new in the run. Raises what
    `combine` raises in process 0, and RuntimeError with its text in the others; also where a
    process is not heard of in 20 minutes.
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
    except Exception as error:  # the others must hear of it, or they would wait for the timeout
        client.key_value_set(f"{root}/all", json.dumps({"error": str(error)}))
        raise
    client.key_value_set(f"{root}/all", json.dumps({"value": value}))
    for i in range(1, count):
        client.key_value_delete(f"{root}/{i}")
    return value
