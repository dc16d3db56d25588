"""Whether an export computes what its run does: it is read back and run on a few tokens.

    want = outputs(program, params)
    found = outputs(*read_model(folder))
    check_outputs("out/gpt2", want, found, "float32", report)   # UserError beyond the bound

The error is the largest difference of a logit, as a part of the largest logit (of 1 where that is
smaller). The bounds are 1e-4 in float32, and 0.02 in float16 and 0.1 in bfloat16, where it includes
what rounding the weights does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlm.core.config import UserError
from jaxlm.core.types import ModelConfig
from jaxlm.training.program import Program

NOTE, CHECK = "jaxlm.json", "check"  # the file beside the others, and its key
BOUNDS = {"float64": 1e-4, "float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}
ROWS, LENGTH = 2, 32


def computing_in(dtype: str, model: ModelConfig) -> tuple[str, ...]:
    """Overrides of a run's config by which its model computes in a dtype."""
    encoder = (f"model.encoder.dtype={dtype}",) if model.is_encoder_decoder else ()
    return f"model.dtype={dtype}", *encoder


def outputs(program: Program, params: Any) -> np.ndarray:
    """Float32 logits of the same tokens for every model: of a head for a task, else of tokens."""
    model_config = program.model
    length = min(LENGTH, model_config.max_positions or LENGTH)
    vocab_size = model_config.vocab_size
    assert vocab_size is not None, "a run with a family's format has one"
    tokens = np.random.default_rng(0).integers(0, vocab_size, (ROWS, length), dtype=np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
    rows = {"positions": positions, "segment_ids": np.ones_like(tokens)}
    objective = program.objective

    @jax.jit
    def forward(params: Any, tokens: jax.Array, rows: dict[str, jax.Array]) -> jax.Array:
        model = nnx.merge(program.graphdef, params)
        if objective.task_head is not None:
            scored: Any = objective
            return scored.scores(model, {"tokens": tokens, **rows})[0]
        source = (
            {"encoded": model.encode(tokens[::-1], **rows)}
            if model_config.is_encoder_decoder
            else {}
        )
        return model.logits(model(tokens, **rows, **source).hidden)

    with jax.set_mesh(program.mesh):
        return np.asarray(forward(params, jnp.asarray(tokens), rows), np.float32)


def check_outputs(
    name: str, want: np.ndarray, found: np.ndarray, dtype: str, report: Callable[[str], None]
) -> dict[str, float]:
    """Reports the error and returns it with its bound; raises `UserError` where it is larger."""
    scale = max(1.0, float(np.abs(want).max()))
    error = float(np.abs(found - want).max()) / scale
    bound = BOUNDS[dtype]
    report(f"read back and run: the largest error of a logit is {error:.1e} (at most {bound:.0e})")
    if not error <= bound:
        raise UserError(
            f"{name}: what was written gives logits that differ from the run's by {error:.1e} of "
            f"the largest, the bound for {dtype} is {bound:.0e}; nothing was kept (--no-check "
            "writes it in spite of that)"
        )
    return {"largest_logit_error": error, "bound": bound}
