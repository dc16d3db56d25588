"""A trained model with its kernels in 4 or 8 bits, for use without training.

    program, params = narrowed(config, program, params, "int8")

The kernels are stored as QLoRA's frozen ones (`jaxlm.nn.stored_kernel`), after an adapter is
merged; embeddings, biases, norms and the heads of tasks stay as they are. A kernel needs about a
quarter (int8) or an eighth (nf4) of the memory, and a matmul restores that of its layer.
"""

from __future__ import annotations

from typing import Any

from jaxlm.adapters.lora import LoRA
from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten, unflatten
from jaxlm.nn.stored_kernel import CODES, StoredAs, as_stored
from jaxlm.run import RunConfig
from jaxlm.training.build import merged, program_of
from jaxlm.training.program import Program


def narrowed(
    config: RunConfig, program: Program, params: dict[str, Any], form: StoredAs
) -> tuple[Program, dict[str, Any]]:
    """The program and the parameters. Raises `UserError` for a model without such kernels."""
    plain, params = merged(config, program, params)
    try:
        own = program_of(config.replace(adapter=LoRA(base_weights=form).off), plain.mesh)
        leaves = flatten(own.abstract_params)
    except UserError as error:
        raise UserError(f"weights: {form}: {error}") from None
    if not any(path.endswith(f"/{CODES}") for path in leaves):
        raise UserError(f"weights: the model has no kernel that is stored as {form}; leave it out")
    return own, unflatten(as_stored(flatten(params), leaves))
