"""A model on a mesh, as everything needs it that computes with its parameters.

    program = make_program(mesh=mesh, model=config.model, objective=config.objective)
    params = program.draw()
    model = nnx.merge(program.graphdef, params)

A `Program` holds what does not change in a run: the module's structure, the objective, shapes and
shardings. It holds no array. What is learnt, and how, is a `Learner`'s (`jaxlm.training.learner`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from jaxlm import mesh as meshes
from jaxlm.adapters.base import Adapter
from jaxlm.core.config import UserError, type_name
from jaxlm.core.tree import flatten, join, map_with_path, select
from jaxlm.core.types import ModelConfig
from jaxlm.kernels.registry import platform
from jaxlm.nn.flops import matmul_flops, only_trained
from jaxlm.nn.heads.base import is_of_head
from jaxlm.nn.params import split
from jaxlm.nn.pipeline import PipelineSchedule, pipelined
from jaxlm.nn.stored_kernel import plain_path
from jaxlm.objectives.base import Objective

INIT_STREAM, DROPOUT_STREAM, SAMPLE_STREAM = range(3)


def derive_key(seed: int, stream: int, step: Any = 0) -> jax.Array:
    """The key of one use of randomness at one step: derived from the seed, never carried."""
    return jax.random.fold_in(
        jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), stream), step
    )


@dataclass(frozen=True, kw_only=True)
class Program:
    """A model's structure, shapes and shardings, and its objective."""

    mesh: Mesh
    graphdef: Any  # the NNX structure that `nnx.merge` puts parameters into
    abstract_params: dict[str, Any]
    param_axes: dict[str, Any]
    param_shardings: dict[str, Any]
    update_shardings: dict[str, Any]  # where each parameter's gradient, moments and average live
    objective: Objective
    model: ModelConfig
    adapter: Adapter | None
    added: frozenset[str]  # paths of the adapter's own parameters
    frozen: frozenset[str]  # paths of parameters that are not trained
    seed: int
    batch_size: int
    accumulation: int
    stage_repeats: int
    embedding_noise: float
    references: Mapping[str, Reference] = field(default_factory=dict)  # frozen models, by name

    def trained(self, tree: dict[str, Any]) -> dict[str, Any]:
        """The part of a tree of parameters (or of their axes, shardings) that training changes."""
        return select(tree, lambda path: path not in self.frozen) if self.frozen else tree

    def base(self, tree: dict[str, Any]) -> dict[str, Any]:
        """The part of a tree of parameters that is frozen; {} where all are trained."""
        return select(tree, lambda path: path in self.frozen) if self.frozen else {}

    def beside(self, params: dict[str, Any], trees: Mapping[str, Any]) -> dict[str, Any]:
        """The frozen models that the objective asks for, as NNX modules (traceable).

        params: with all frozen parameters. trees: the references' own parameters, by name.
        """
        return {
            name: reference.model(params, trees.get(name, {}))
            for name, reference in self.references.items()
        }

    @property
    def abstract_references(self) -> dict[str, Any]:
        """Shapes and shardings of the references' own parameters, by name; without those that have
        none of their own.
        """
        found = {n: r.own(r.program.abstract_params) for n, r in self.references.items()}
        return {name: tree for name, tree in found.items() if tree}

    def init_params(self) -> dict[str, Any]:
        """Fresh parameters (traceable): a function of the seed alone."""
        module = _build(self.objective, self.model, self.adapter, self.seed)
        return nnx.to_pure_dict(nnx.split(module)[1])

    def draw(self) -> dict[str, Any]:
        """Fresh parameters on the mesh, all of them.

        Who needs some takes them from the result: one program draws for every use, so that values
        are equal to the bit, and it is compiled once.
        """
        return jax.jit(self.init_params, out_shardings=self.param_shardings)()

    def init_carry(self, batch_size: int | None = None) -> Any:
        """The recurrent state before the first batch, one for each row of the global batch."""
        model = nnx.merge(self.graphdef, self.abstract_params)
        return model.init_cache(batch_size or self.batch_size, 0)

    def flops_per_token(self, seq_len: int) -> float:
        """Forward FLOPs of a token for the data's rows of `seq_len`, as the objective has them."""
        module = nnx.merge(self.graphdef, self.abstract_params)
        return self.objective.flops_per_token(module, seq_len)

    def step_flops_per_token(self, seq_len: int) -> float:
        """FLOPs of a train step for each token of rows of `seq_len`: 3 times the forward ones, less
        the gradients of frozen kernels (`jaxlm.nn.flops`). Recomputation does not count.

        Where a head alone is trained, no gradient enters the model below it. The frozen models
        beside the trained one have a forward pass each.
        """
        others = sum(r.program.flops_per_token(seq_len) for r in self.references.values())
        return others + self._trained_flops_per_token(seq_len)

    def _trained_flops_per_token(self, seq_len: int) -> float:
        forward = self.flops_per_token(seq_len)
        if not self.frozen:
            return 3 * forward
        module = nnx.merge(self.graphdef, self.abstract_params)
        kernels = only_trained(module, self.frozen)
        if all(map(is_of_head, flatten(self.trained(self.abstract_params)))):
            return forward + 2 * matmul_flops(kernels)
        return 2 * forward + self.objective.flops_per_token(kernels, seq_len)

    def eval_step(
        self,
        params: Any,
        batch: Mapping[str, jax.Array],
        carry: Any,
        references: Mapping[str, Any] | None = None,
    ) -> tuple[dict, Any]:
        """Metric sums of one batch, no dropout; and the carry after it.

        references: the trees of the frozen models beside the trained one, by name.
        """
        rows = len(batch["segment_ids"]) // meshes.batch_parts(self.mesh)
        with pipelined(PipelineSchedule(math.gcd(rows, self.accumulation), self.stage_repeats)):
            model = nnx.merge(self.graphdef, params)
            beside = self.beside(params, references or {})
            batch = self.objective.over_batch(model, beside, batch)
            out = self.objective.loss_beside(model, beside, batch, key=None, cache=carry)
        return dict(out.metrics), out.cache

    def predict_step(self, params: Any, batch: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """The objective's predictions for the rows of one batch: {name: [B, ...]}; no dropout."""
        rows = len(batch["segment_ids"]) // meshes.batch_parts(self.mesh)
        with pipelined(PipelineSchedule(math.gcd(rows, self.accumulation), self.stage_repeats)):
            return self.objective.predict(nnx.merge(self.graphdef, params), batch)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A frozen model that an objective asks for. `shared` are the paths of the parameters that it
    has in common with the frozen ones of the run, of which it has no copy.
    """

    program: Program
    shared: frozenset[str]

    def own(self, tree: dict[str, Any]) -> dict[str, Any]:
        """The part of a tree of its parameters that the run does not have."""
        return select(tree, lambda path: path not in self.shared)

    def model(self, params: dict[str, Any], own: dict[str, Any]) -> Any:
        """The NNX module, of the run's parameters and its own (traceable)."""
        whole = join(select(params, self.shared.__contains__), own)
        return nnx.merge(self.program.graphdef, jax.lax.stop_gradient(whole))


def make_program(
    *,
    mesh: Mesh,
    zero: int = 3,
    stage_repeats: int = 1,
    model: ModelConfig,
    objective: Objective,
    adapter: Adapter | None = None,
    seed: int = 0,
    batch_size: int = 1,
    accumulation: int = 1,
    embedding_noise: float = 0.0,
    references: Mapping[str, Reference] | None = None,
) -> Program:
    """A Program from configs; shapes only, nothing is allocated.

    With `zero` 1, fsdp splits the optimizer state but not the parameters (arXiv:1910.02054). Where
    the mesh has stages, the micro-batches pass them `stage_repeats` times (`jaxlm.nn.pipeline`).
    Raises `UserError` where the mesh does not divide a parameter or the micro-batch.
    """
    meshes.check_accumulation(batch_size, accumulation, mesh)
    if mesh.shape["stage"] > 1 and not model.pipelines:
        raise UserError(
            f"mesh.stage: the layers of a {type_name(type(model))} cannot be a pipeline; set it "
            "to 1, and split data or fsdp"
        )
    model.check_stages(mesh.shape["stage"], stage_repeats)
    if isinstance(mesh, Mesh):  # an abstract one has no devices: what kernels are picked for
        model = model.computing_on(mesh.devices.flat[0].platform)
    graphdef, abstract, axes = _structure(objective, model, adapter)
    added, frozen = _adapted(objective, model, adapter, flatten(abstract))
    update_shardings = meshes.param_shardings(abstract, axes, mesh)
    whole = ("fsdp",) if zero == 1 else ()
    shardings = meshes.param_shardings(abstract, axes, mesh, without=whole)
    abstract = map_with_path(
        lambda _, x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )
    return Program(
        mesh=mesh,
        graphdef=graphdef,
        abstract_params=abstract,
        param_axes=axes,
        param_shardings=shardings,
        update_shardings=update_shardings,
        objective=objective,
        model=model,
        adapter=adapter,
        added=added,
        frozen=frozen,
        seed=seed,
        batch_size=batch_size,
        accumulation=accumulation,
        stage_repeats=stage_repeats,
        embedding_noise=embedding_noise,
        references=references or {},
    )


def _build(objective: Objective, model: ModelConfig, adapter: Adapter | None, seed: int) -> Any:
    """The NNX module. An adapter draws after the model, so the model's draws do not change."""
    rngs = nnx.Rngs(derive_key(seed, INIT_STREAM))
    module = objective.build_model(model, rngs=rngs)
    if adapter is not None:
        adapter.apply(module, rngs=rngs)
    return module


def _structure(
    objective: Objective, model: ModelConfig, adapter: Adapter | None
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """(graphdef, shapes, logical axes) of the module, whatever the seed; nobody may change them.

    To trace a module takes about 0.1 s, and a verb makes several programs of one config.
    """
    try:
        hash((objective, model, adapter))
    except TypeError:  # of a part with a dict
        return _traced(objective, model, adapter, platform())
    return _traced_once(objective, model, adapter, platform())


def _traced(
    objective: Objective, model: ModelConfig, adapter: Adapter | None, kernels_for: str
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """`_structure`, traced. A model may depend on the platform that kernels are picked for."""
    return split(nnx.eval_shape(lambda: _build(objective, model, adapter, seed=0)))


_traced_once = lru_cache(maxsize=32)(_traced)


def _adapted(
    objective: Objective,
    model: ModelConfig,
    adapter: Adapter | None,
    params: Mapping[str, Any],
) -> tuple[frozenset[str], frozenset[str]]:
    """The paths that an adapter adds, and those that are frozen with it.

    The head of a task, which a language model does not have, is always trained.
    """
    if adapter is None:
        return frozenset(), frozenset()
    own = flatten(_structure(objective, model, None)[1])
    adapter.check(sorted(own))
    # A stored kernel has the path of the kernel: "scale" is of norms, and not of its scales.
    frozen = {
        path for path in params if not adapter.trains(plain_path(path)) and not is_of_head(path)
    }
    added = {path for path in params if plain_path(path) not in own}
    return frozenset(added), frozenset(frozen)
