"""The device mesh, the one table of logical-axis rules, and global arrays.

Arrays name their axes by what they mean ("embed", "heads", "batch"); the table `RULES` says on
which mesh axes each meaning is split. A model never names a mesh axis, so one model runs on any
mesh:

    mesh = MeshConfig(data=2, fsdp=-1).build()
    with jax.set_mesh(mesh):
        x = shard(x, "batch", "length", "act_embed")

`config` builds the mesh; `rules` has the table. In a traced program, `inside` constrains how arrays
are split, and `by_hand` runs functions on each device's part. `arrays` puts a host's rows on the
mesh.
"""

from __future__ import annotations

from jaxlm.mesh.arrays import (
    batch_parts,
    batch_sharding,
    check_accumulation,
    check_batch,
    largest,
    local_rows,
    padded,
    replicated,
    to_global,
    to_global_whole,
)
from jaxlm.mesh.by_hand import (
    all_rows,
    columns_for_rows,
    from_first_stage,
    gather_part,
    on_each_device,
    on_each_stage,
    own_rows,
    part_index,
    rows_for_columns,
    sum_own_rows,
    sum_parts,
    sum_split,
)
from jaxlm.mesh.config import MeshConfig
from jaxlm.mesh.inside import (
    columns_of,
    cut_rows,
    fitting,
    from_columns,
    gather_length,
    gather_weight,
    gradient_by_columns,
    is_split,
    join_rows,
    num_parts,
    shard,
    splits_length,
)
from jaxlm.mesh.rules import (
    AXES,
    BATCH_AXES,
    LENGTHS,
    RULES,
    check_divides,
    param_shardings,
    spec_of,
)

__all__ = [
    "AXES",
    "BATCH_AXES",
    "LENGTHS",
    "MeshConfig",
    "RULES",
    "all_rows",
    "batch_parts",
    "batch_sharding",
    "check_accumulation",
    "check_batch",
    "check_divides",
    "columns_for_rows",
    "columns_of",
    "cut_rows",
    "fitting",
    "from_columns",
    "from_first_stage",
    "gather_length",
    "gather_part",
    "gather_weight",
    "gradient_by_columns",
    "is_split",
    "join_rows",
    "largest",
    "local_rows",
    "num_parts",
    "on_each_device",
    "on_each_stage",
    "own_rows",
    "padded",
    "param_shardings",
    "part_index",
    "replicated",
    "rows_for_columns",
    "shard",
    "spec_of",
    "splits_length",
    "sum_own_rows",
    "sum_parts",
    "sum_split",
    "to_global",
    "to_global_whole",
]
