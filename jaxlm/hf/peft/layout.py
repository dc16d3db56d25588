"""The places of a model's parameters in the modules of its class in transformers.

layout = layout_of(config, program, family, "LlamaForCausalLM", report)
layout.modules["model.layers.0.self_attn.q_proj"]       # its kernels, one or several
layout.tensors["classifier.weight"]                     # slices of a parameter
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flax import nnx

from jaxlm.core.types import ModelConfig
from jaxlm.hf.exporting import contents_of, exported_leaves
from jaxlm.hf.matching import MODULES, named, pieces_of
from jaxlm.hf.peft.experts import Experts, experts_of
from jaxlm.hf.peft.modules import Modules, modules_of
from jaxlm.hf.vocabularies import read_json
from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.table import Piece
from jaxlm.nn.dense import Adaptable
from jaxlm.nn.embed import Embedding
from jaxlm.run import RunConfig
from jaxlm.runs.folder import RunDir
from jaxlm.training.program import Program


@dataclass(frozen=True)
class Layout:
    """A family's table for one model, under the names of a class."""

    family: Family
    model: ModelConfig
    modules: Modules
    experts: Experts  # parameters of all experts, by their names
    tensors: Mapping[str, list[Piece]]  # by the name of the tensor
    tied: frozenset[str]  # parameters that the class has a second time
    class_name: str  # in transformers


def layout_of(
    config: RunConfig,
    program: Program,
    family: Family,
    came_as: str | None,
    report: Callable[[str], None],
    names: str | None = None,
) -> Layout:
    """The layout of a run's model without its adapter.

    came_as: the class that the model was imported as, if it was. names: as
    `jaxlm.hf.matching.named` takes them; None: those of the class.

    Raises `UserError` where the family has no place for a parameter.
    """
    contents, plain = contents_of(family, config.replace(adapter=None), report)
    task = contents.task
    shapes = {path: leaf.shape for path, leaf in exported_leaves(plain, report).items()}
    pieces, repeats = pieces_of(family, contents.model, shapes, task)
    cls = task.name if task else came_as if came_as in family.classes else family.architectures[0]
    if names is None:
        names = (task.names if task else "-" if cls in family.bases else "") + MODULES
    pieces = named(pieces, family, names)
    model = nnx.merge(program.graphdef, program.abstract_params)
    inputs = {
        "/".join(map(str, path)): getattr(node, "num_inputs", 1)
        for path, node in nnx.iter_graph(model)
        if isinstance(node, (Adaptable, Embedding))
    }
    tensors: dict[str, list[Piece]] = {}
    for parts in pieces.values():
        for piece in parts:
            tensors.setdefault(piece.name, []).append(piece)
    tied = frozenset(path for path, parts in repeats.items() if parts)
    modules, experts = modules_of(pieces, inputs), experts_of(pieces, inputs)
    return Layout(family, contents.model, modules, experts, tensors, tied, cls)


def imported_class(run: RunDir) -> str | None:
    """The class of transformers that a run, or the base of its adapter, was imported as."""
    found = read_json(run.originals / "config.json").get("architectures")
    return found[0] if found else None
