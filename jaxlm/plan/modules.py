"""Which part of a model an instruction of a compiled program belongs to.

The compiler keeps the stack of source files that traced each instruction; the innermost file that
has a name here names the part. The phase follows from what jax's transformations add to its name.
"""

from __future__ import annotations

from functools import cache

from jaxlm.plan.hlo_text import Module, Op

PARTS: tuple[tuple[str, str], ...] = (
    ("jaxlm/kernels/head_loss", "head"),
    ("jaxlm/kernels/cross_entropy", "head"),
    ("jaxlm/kernels/attention", "attention"),
    ("jaxlm/kernels/splash", "attention"),
    ("jaxlm/kernels/ring", "attention"),
    ("jaxlm/kernels/context", "attention"),
    ("jaxlm/kernels/grouped_matmul", "experts"),
    ("jaxlm/kernels/exchange", "experts"),
    ("jaxlm/kernels/recurrence", "recurrence"),
    ("jaxlm/kernels/linear_recurrence", "recurrence"),
    ("jaxlm/nn/attention", "attention"),
    ("jaxlm/nn/latent", "attention"),
    ("jaxlm/nn/source_attention", "attention"),
    ("jaxlm/nn/position", "attention"),
    ("jaxlm/nn/ffn", "ffn"),
    ("jaxlm/nn/moe", "experts"),
    ("jaxlm/nn/experts", "experts"),
    ("jaxlm/nn/embed", "embedding"),
    ("jaxlm/nn/norm", "norm"),
    ("jaxlm/nn/recurrent", "recurrence"),
    ("jaxlm/nn/bidirectional", "recurrence"),
    ("jaxlm/nn/linear_recurrent", "recurrence"),
    ("jaxlm/train/optimizer", "optimizer"),
    ("jaxlm/train/matrix", "optimizer"),
    ("optax/", "optimizer"),
    ("jaxlm/models/blocks", "residual stream"),
    ("jaxlm/nn/stack", "residual stream"),
    ("jaxlm/models/transformer", "embedding"),
)
PRODUCTS = ("jaxlm/nn/dense", "jaxlm/kernels/contract", "jaxlm/mesh/")  # that any part asks
PHASES = ("forward", "recomputation", "backward", "update")


def module_of(op: Op, module: Module) -> str:
    """The part's name; "other" where nothing tells."""
    name = "other" if op.frame is None else _part(module.frames.get(op.frame, ()))
    again = name == "residual stream" and phase_of(op) == "recomputation"
    return "layers, computed again" if again else name  # whose frames end at the layer's checkpoint


@cache
def _part(files: tuple[str, ...]) -> str:
    for file in files:
        for piece, name in PARTS:
            if piece in file:
                return name
    return "step" if any("jaxlm/" in file for file in files) else "other"


def asking_file(op: Op, module: Module) -> str:
    """The file of ours that asked for a product, such as "jaxlm/nn/moe.py"; "" where none is."""
    for file in module.frames.get(op.frame, ()) if op.frame is not None else ():
        place = file.find("jaxlm/")
        if place >= 0 and not file[place:].startswith(PRODUCTS):
            return file[place:]
    return ""


def phase_of(op: Op) -> str:
    """One of `PHASES`, by what jax wrote into the instruction's name."""
    name = op.op_name
    if "rematted_computation" in name:
        return "recomputation"
    if "transpose(" in name:
        return "backward"
    return "forward" if "jvp(" in name else "update"
