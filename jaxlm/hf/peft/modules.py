"""The modules of PyTorch that a model's kernels are, and the A, B and magnitude of each of them.

A module's weight is one tensor of the family's table, which may hold several of our kernels, such
as the queries, keys and values of GPT-2's c_attn. PEFT gives it one A [rank, inputs] and one
B [outputs, rank]. So one A is shared by the kernels on import; on export kernels with an A each are
stacked, exactly: A to the sum of their ranks, B block by block.

    A = [A_q; A_k; A_v]     B = diag(B_q, B_k, B_v)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.hf.matching import Pieces
from jaxlm.models.families.shared.table import Piece

Array = np.ndarray


@dataclass(frozen=True)
class ModuleKernel:
    """A kernel of ours, or of one of its layers, in a module."""

    piece: Piece
    num_inputs: int

    @property
    def where(self) -> str:
        """The path of the kernel's module."""
        return self.piece.path.rpartition("/")[0]

    @property
    def is_expert(self) -> bool:
        """Whether it is the kernel of one of several experts of a layer."""
        return len(self.piece.index) > 1

    @property
    def _order(self) -> tuple[list[str], list[str], list[str], list[str]]:
        """Our input and output dims, and the file's."""
        left, right = self.piece.rearrangement.left, self.piece.rearrangement.right
        ins, outs = list(right[: self.num_inputs]), list(right[self.num_inputs :])
        flat = [name for group in left for name in group]
        return ins, outs, [n for n in flat if n in ins], [n for n in flat if n in outs]

    @property
    def sizes(self) -> dict[str, int]:
        return dict(zip(self.piece.rearrangement.right, self.piece.shape, strict=True))

    @property
    def num_outputs(self) -> int:
        return int(np.prod([self.sizes[name] for name in self._order[1]]))

    @property
    def inputs_size(self) -> int:
        return int(np.prod([self.sizes[name] for name in self._order[0]]))

    @property
    def transposed(self) -> bool:
        """Whether the file's tensor is [inputs, outputs]."""
        return set(self.piece.rearrangement.left[0]) <= set(self._order[0])

    def write_a(self, a: Array) -> Array:  # [*inputs, r] -> [r, in]
        ins, _, order, _ = self._order
        axes = [*(ins.index(name) for name in order), len(ins)]
        return a.transpose(axes).reshape(-1, a.shape[-1]).T

    def read_a(self, a: Array) -> Array:  # [r, in] -> [*inputs, r]
        ins, _, order, _ = self._order
        wide = a.T.reshape(*(self.sizes[name] for name in order), len(a))
        return wide.transpose([*(order.index(name) for name in ins), len(ins)])

    def write_b(self, b: Array) -> Array:  # [r, *outputs] -> [out, r]
        _, outs, _, order = self._order
        axes = [0, *(1 + outs.index(name) for name in order)]
        return b.transpose(axes).reshape(len(b), -1).T

    def read_b(self, b: Array) -> Array:  # [out, r] -> [r, *outputs]
        _, outs, _, order = self._order
        wide = b.T.reshape(b.shape[1], *(self.sizes[name] for name in order))
        return wide.transpose([0, *(1 + order.index(name) for name in outs)])

    def write_m(self, m: Array) -> Array:  # [*outputs] -> [out]
        return self.write_b(m[None])[:, 0]

    def read_m(self, m: Array) -> Array:  # [out] -> [*outputs]
        return self.read_b(m[:, None])[0]


Modules = Mapping[str, list[ModuleKernel]]


def modules_of(pieces: Pieces, num_inputs: Mapping[str, int]) -> dict[str, list[ModuleKernel]]:
    """{name of a module: its parts in the file's order}. num_inputs: of kernels, by module path.

    Each expert's kernels are modules of their own, as in transformers < 5; those of later versions
    are of `jaxlm.hf.peft.experts`.
    """
    out: dict[str, list[ModuleKernel]] = {}
    for path, parts in pieces.items():
        where, _, leaf = path.rpartition("/")
        if leaf in ("kernel", "table") and where in num_inputs:
            for piece in parts:
                part = ModuleKernel(piece, num_inputs[where])
                out.setdefault(piece.name.removesuffix(".weight"), []).append(part)
    return {name: sorted(parts, key=lambda p: p.piece.start) for name, parts in out.items()}


@dataclass(frozen=True)
class Factors:
    """The adapter of a module; of a parameter of all experts with their number as first dim."""

    a: Array  # [rank, inputs]
    b: Array  # [outputs, rank]
    scale: float
    m: Array | None = None  # [outputs]: the magnitude of DoRA

    @property
    def rank(self) -> int:
        return int(self.a.shape[-2])


def joined(
    parts: Sequence[ModuleKernel], own: Mapping[str, Factors], norms: Mapping[str, Array]
) -> Factors:
    """The adapter of a module from those of its kernels.

    own: {path: factors} in the file's layout, of the kernels that have some. norms: {path: ||W||}
    of all of them, for DoRA.
    """
    found = [own[p.where] for p in parts if p.where in own]
    scale, first = found[0].scale, found[0]
    bs = [f.b * np.float32(f.scale / scale) if f.scale != scale else f.b for f in found]
    if len(found) == len(parts) and all(np.array_equal(f.a, first.a) for f in found):
        a, b = first.a, np.concatenate(bs)
    else:
        a = np.concatenate([f.a for f in found])
        b = np.zeros((sum(p.num_outputs for p in parts), len(a)), np.float32)
        row = column = 0
        for part in parts:
            if part.where in own:
                block = bs.pop(0)
                b[row : row + len(block), column : column + block.shape[1]] = block
                column += block.shape[1]
            row += part.num_outputs
    m = None
    if any(f.m is not None for f in found):
        ms = [own[p.where].m if p.where in own else norms[p.where] for p in parts]
        m = np.concatenate([x for x in ms if x is not None])
    return Factors(a, b, scale, m)


def cut(name: str, parts: Sequence[ModuleKernel], whole: Factors) -> dict[str, Factors]:
    """{path: factors} of the kernels of a module: slices of B, and one A.

    Raises `UserError` where the shapes are not those of the module.
    """
    inputs, outputs = parts[0].inputs_size, sum(part.num_outputs for part in parts)
    rank = len(whole.a)
    wanted = (rank, inputs), (outputs, rank)
    if (whole.a.shape, whole.b.shape) != wanted:
        raise UserError(
            f"{name}: A {list(whole.a.shape)} and B {list(whole.b.shape)} are not of a module of "
            f"{inputs} inputs and {outputs} outputs"
        )
    out, start = {}, 0
    for part in parts:
        rows = slice(start, start + part.num_outputs)
        m = None if whole.m is None else whole.m[rows]
        out[part.where] = Factors(whole.a, whole.b[rows], whole.scale, m)
        start = rows.stop
    return out


def trimmed(factors: Factors) -> Factors | None:
    """Without ranks that are 0 in both A and B, which have no effect; None: there are no others."""
    used = np.array(factors.a.any(axis=1) | factors.b.any(axis=0))
    if not used.any() and factors.m is None:
        return None
    used[0] |= not used.any()  # a magnitude needs an A and a B beside it
    return Factors(factors.a[used], factors.b[:, used], factors.scale, factors.m)
