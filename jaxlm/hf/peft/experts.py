"""Kernels of experts as PEFT adapts them: one parameter of a module for all experts of a layer
(`target_parameters` of LoraConfig, PEFT >= 0.17, with the classes of transformers >= 5).

    gate_up_proj [E, 2 I, D]    lora_A.weight [E r, D]    lora_B.weight [2 I, r E]
    down_proj    [E, D, I]      lora_A.weight [E r, I]    lora_B.weight [D, r E]

In A the experts follow each other, in B they are the last dim. Gate and up of an expert are one
matrix: `jaxlm.hf.peft.modules.joined` stacks their A exactly. A module has no names for its
parameters: where two are adapted, the first one is a layer further in,

    experts.base_layer.lora_A.weight    of gate_up_proj
    experts.lora_A.weight               of down_proj

A router's kernel is a parameter there as well, "gate.weight", whose A and B are a module's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.hf.matching import Pieces
from jaxlm.hf.peft.modules import Factors, ModuleKernel, cut

# Ours -> theirs; gate and up are one parameter, in this order.
PARAMETERS = {"gate": "gate_up_proj", "up": "gate_up_proj", "down": "down_proj"}
WRAPPED = ("gate_up_proj", "down_proj")  # from the inside
INNER = ".base_layer"


@dataclass(frozen=True)
class ExpertKernels:
    """A parameter of all experts: the kernels of each expert, in the file's order."""

    module: str  # "model.layers.0.mlp.experts"
    name: str  # "gate_up_proj"
    experts: Sequence[Sequence[ModuleKernel]]

    @property
    def full_name(self) -> str:
        return f"{self.module}.{self.name}"


Experts = Mapping[str, ExpertKernels]  # by their full names


def experts_of(pieces: Pieces, num_inputs: Mapping[str, int]) -> Experts:
    """The parameters that kernels of experts are in. num_inputs: of kernels, by module path."""
    found: dict[tuple[str, str], dict[int, dict[str, ModuleKernel]]] = {}
    for path, parts in pieces.items():
        where, _, leaf = path.rpartition("/")
        ours = where.rpartition("/")[2]
        if leaf != "kernel" or ours not in PARAMETERS or where not in num_inputs:
            continue
        for piece in parts:
            module, dot, _ = piece.name.rpartition(f".{piece.index[-1]}." if piece.index else "?")
            if len(piece.index) < 2 or not dot:
                continue
            own = found.setdefault((module, PARAMETERS[ours]), {})
            own.setdefault(piece.index[-1], {})[ours] = ModuleKernel(piece, num_inputs[where])
    out = {}
    for (module, name), experts in found.items():
        ordered = [[own[x] for x in PARAMETERS if x in own] for _, own in sorted(experts.items())]
        out[f"{module}.{name}"] = ExpertKernels(module, name, ordered)
    return out


def router_parameter(module: str, parts: Sequence[ModuleKernel]) -> str | None:
    """The name of a router's parameter; None: the module is another."""
    return f"{module}.weight" if parts[0].where.endswith("/router") else None


# ------------------------------------------------------------------------------------------ names


def matched(names: Collection[str], targets: Collection[str]) -> set[str]:
    """The parameters that `target_parameters` names: whole names, or their ends from a dot on."""
    return {n for n in names if any(n == t or n.endswith(f".{t}") for t in targets)}


def key_of(one: ExpertKernels, adapted: Collection[str]) -> str:
    """The module under which the A and B of a parameter are stored, where these full names have
    some.
    """
    own = [name for name in WRAPPED if f"{one.module}.{name}" in adapted]
    return one.module + INNER * (len(own) - 1 - own.index(one.name))


def keys_of(experts: Experts, targets: Collection[str]) -> dict[str, str]:
    """{module under which an A and B are stored: full name of their parameter}."""
    adapted = matched(experts, targets)
    return {key_of(experts[name], adapted): name for name in adapted}


# ---------------------------------------------------------------------------------------- factors


def stacked(factors: Sequence[Factors]) -> Factors | None:
    """The adapters of all experts as one, A [E, r, inputs] and B [E, outputs, r], without ranks
    that are 0 in all of them; None: there are no others.
    """
    rank, scale = max(len(f.a) for f in factors), factors[0].scale
    a = np.stack([np.pad(f.a, ((0, rank - len(f.a)), (0, 0))) for f in factors])
    b = np.stack([np.pad(f.b, ((0, 0), (0, rank - len(f.a)))) for f in factors])
    used = a.any(axis=(0, 2)) | b.any(axis=(0, 1))
    return Factors(a[:, used], b[:, :, used], scale) if used.any() else None


def to_file(factors: Factors) -> tuple[np.ndarray, np.ndarray]:
    """A [E r, inputs] and B [outputs, r E] of stacked factors."""
    a, b = factors.a, factors.b
    return a.reshape(-1, a.shape[-1]), b.transpose(1, 2, 0).reshape(b.shape[1], -1)


def from_file(one: ExpertKernels, factors: Factors) -> dict[tuple[str, int], Factors]:
    """{(path of a kernel, expert): factors} from an A and a B of the file. Raises `UserError`
    where their shapes are not those of the parameter.
    """
    experts, (a, b) = len(one.experts), (factors.a, factors.b)
    if a.shape[0] % experts or b.shape[1] != a.shape[0]:
        raise UserError(
            f"{one.full_name}: A {list(a.shape)} and B {list(b.shape)} are not of {experts} experts"
        )
    a = a.reshape(experts, -1, a.shape[-1])
    b = b.reshape(b.shape[0], -1, experts).transpose(2, 0, 1)
    return {
        (where, number): found
        for number, parts in enumerate(one.experts)
        for where, found in cut(
            one.full_name, parts, Factors(a[number], b[number], factors.scale)
        ).items()
    }
