"""Options of the XLA compiler for the train step: some for each kind of device, and the user's.

    options = options_for("TPU v5p", {"xla_tpu_enable_latency_hiding_scheduler": "true"})
    step.lower(state, batch).compile(compiler_options=options)

These options let collectives overlap with matrix products, as in published recipes for these
devices (MaxText's XLA flags, 2025), and give products the on-chip memory that suits them. The sets
were compared by the compiler's own cycle counts (`tools/tune_xla.py`; nothing was run on a device),
for a step of two layers of Llama 3.1 8B over 16 chips:

                  v4        v5e       v5p       v6e
    none          460 ms    550 ms    223 ms    222 ms
    shipped       449 ms    476 ms    182 ms    183 ms

(v4 with `data` of two beside fsdp). tpu7x, over eight chips, with an assumed clock of 2.2 GHz,
which is not published: 125 ms, and 108 with 48 MiB of on-chip memory for products. Options are left
out that changed nothing in these steps or in GPT-2's over eight v5e, or made them slower:
all-reduces or reduce-scatters in fusions, sparse cores, another scheduler, more memory. The run's
`train.xla` overrides any option.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jaxlm.core.chips import chip_of
from jaxlm.core.config import UserError
from jaxlm.distributed.memory import return_freed_memory

# {maker's name, at the start of a device's kind: options}
OPTIONS: dict[str, dict[str, str]] = {
    "TPU": {
        "xla_tpu_enable_async_collective_fusion": "true",
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
        "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
        "xla_tpu_overlap_compute_collective_tc": "true",
        "xla_enable_async_all_gather": "true",
    },
    "NVIDIA": {"xla_gpu_enable_latency_hiding_scheduler": "true"},
}


def options_for(device_kind: str, chosen: Mapping[str, str]) -> dict[str, str]:
    """The options for devices of a kind, then those of its chip (on-chip memory for large matrix
    products), then those that a run chose; a later one wins.
    """
    found: dict[str, str] = {}
    for maker, options in OPTIONS.items():
        if device_kind.startswith(maker):
            found |= options
    chip = chip_of(device_kind)
    return found | dict(chip.xla if chip else {}) | dict(chosen)


def compile_with(lowered: Any, options: Mapping[str, str]) -> Any:
    """The executable. Raises `UserError` for an option that this compiler does not know.

    An empty value removes an option, such as one of `OPTIONS` that a compiler no longer has.
    """
    parsed = {name: _value(text) for name, text in options.items() if text}
    try:
        compiled = lowered.compile(compiler_options=parsed or None)
    except Exception as error:
        line = str(error).splitlines()[0]
        named = [name for name in parsed if re.search(rf"\b{re.escape(name)}\b", line)]
        if "compile option" not in line and "setting option" not in line or not named:
            raise
        raise UserError(
            f"train.xla: {named[0]}={options[named[0]]!r}: this compiler says {line}; "
            f"correct it, or remove it by {named[0]}=''"
        ) from None
    return_freed_memory()
    return compiled


def _value(text: str) -> bool | int | str:
    """A word as the compiler takes it: some of its backends want numbers as numbers."""
    words: dict[str, bool] = {"true": True, "false": False}
    return words[text] if text in words else int(text) if text.isdecimal() else text
