"""What the TPUs' compiler says of programs that need about all memory of a v5e.

    python -m tests.plan.edge_of_memory 905000 1512000 1520000

One line of JSON for each number of rows: the most bytes that are live at a time, and arguments and
temporaries as they are packed; or the bytes that the compiler needs, where it refuses the program.
"""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm.plan.compiling import devices_of, read_out_of_memory
from jaxlm.plan.devices import Topology
from jaxlm.plan.memory import live_bytes

WIDTH = 1024


def program(x: jax.Array) -> jax.Array:  # [N, WIDTH] -> [N, WIDTH]
    """Arrays of several sizes, each made from the last one and kept for some time."""
    kept, last = [], x
    for part in (5, 3, 7, 4):
        size = len(x) // part
        made = jnp.tanh(last[:size] @ jnp.ones((WIDTH, WIDTH)) * 0.01)
        last = jnp.concatenate([last[size:], made @ jnp.full((WIDTH, WIDTH), 0.5)])
        kept.append(made)
    first = sum((made @ made.T[:, :8]).sum() for made in kept[::2])
    last = last @ jnp.full((WIDTH, WIDTH), 0.25)
    return last + first + sum((made @ made.T[:, :8]).sum() for made in kept[1::2])


def found(rows: int) -> dict[str, float]:
    device = devices_of(Topology.read("v5e:2x2"))[:1]
    whole = NamedSharding(Mesh(np.array(device), ("data",)), PartitionSpec())
    x = jax.ShapeDtypeStruct((rows, WIDTH), jnp.float32, sharding=whole)
    lowered = jax.jit(program, donate_argnums=0).lower(x)
    try:
        stats = lowered.compile({"optimization_level": "9"}).memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        refused = read_out_of_memory(str(error))
        assert refused is not None and refused.needed is not None, error
        return {"needed": refused.needed}
    arguments = stats.argument_size_in_bytes
    return {
        "live": arguments + live_bytes(stats),
        "packed": arguments + stats.temp_size_in_bytes,
    }


if __name__ == "__main__":
    for rows in sys.argv[1:]:
        print(json.dumps(found(int(rows))), flush=True)
