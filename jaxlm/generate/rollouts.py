"""Rollouts: what the model writes for the prompts of a batch, graded, as the batch of a train step.

    learner.use_data(config, prepared)
    batch = learner.batch(state, learner.frozen, batch)     # completions of the batch's prompts

The learner of objectives that derive from `jaxlm.objectives.on_policy.OnPolicy`. The generator
reads the weights of the train state where they are, on the same mesh. Its draws follow from the
seed, the step and the place of a completion in the batch: neither the mesh nor a restart changes
them. Each process grades the completions of its own rows.

Where a rollout serves several steps, the step puts it into the state ("rollout"), so that a
checkpoint between them has what the rest needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlm import mesh as meshes
from jaxlm.core.config import UserError, type_name
from jaxlm.core.sampling import Sampling
from jaxlm.core.tree import join
from jaxlm.data.loader import stack
from jaxlm.data.prompts import encode_prompt, ends_of, ids_of
from jaxlm.data.store.prepared import Prepared
from jaxlm.generate.generator import Generator
from jaxlm.nn.pipeline import Schedule, pipelined
from jaxlm.objectives.base import record_rng
from jaxlm.objectives.on_policy import RECORD, OnPolicy
from jaxlm.optim.base import OptimizerConfig
from jaxlm.run import RunConfig
from jaxlm.training.ahead import Ahead, Compiling
from jaxlm.training.feed import batch_spec as spec_on_mesh
from jaxlm.training.learner import Frozen, GradientLearner, Learner
from jaxlm.training.program import Program
from jaxlm.training.state import State

KEPT = "rollout"  # the key of a state that has the rollout of several steps


class RolloutLearner(GradientLearner):
    """Descends on what the model wrote itself."""

    def __init__(
        self, program: Program, optimizer: OptimizerConfig, total_steps: int = 1, *, length: int
    ) -> None:
        """length: tokens of a row of the batch."""
        super().__init__(program, optimizer, total_steps)
        assert isinstance(program.objective, OnPolicy), type(program.objective)
        self.objective: OnPolicy = program.objective
        spec = self.objective.rollout_spec(length)
        self.rollout_spec = spec_on_mesh(spec, program.batch_size, program.mesh)
        self._completions: Completions | None = None

    @classmethod
    def of(cls, config: RunConfig, program: Program) -> Learner:
        objective, size = program.objective, config.train.batch_size
        assert config.optimizer is not None and isinstance(objective, OnPolicy)
        name = type_name(type(objective))
        if size % objective.group_size:
            raise UserError(
                f"train.batch_size: {size} completions cannot be cut into groups of "
                f"{objective.group_size} (objective.group_size); set it to a multiple"
            )
        if program.embedding_noise:
            raise UserError(
                f"train.embedding_noise: {name} compares probabilities with those that texts were "
                "written with, which have no noise; set it to 0"
            )
        if config.data is None:
            raise UserError(f"data: null, and {name} writes answers to its prompts; name some")
        length = objective.transform_spec(config.data.row_spec()).sizes["T"]
        return cls(program, config.optimizer, config.train.steps or 1, length=length)

    # -------------------------------------------------------------------------------------- state

    @property
    def keeps(self) -> bool:
        """Whether a rollout serves several steps."""
        return self.objective.num_iterations > 1

    def _init(self, params: dict[str, Any]) -> State:
        state = super()._init(params)
        if self.keeps:
            state[KEPT] = {n: jnp.zeros(x.shape, x.dtype) for n, x in self.rollout_spec.items()}
        return state

    def _shardings(self, shapes: State) -> State:
        found = super()._shardings(shapes)
        if self.keeps:
            found[KEPT] = {name: x.sharding for name, x in self.rollout_spec.items()}
        return found

    # --------------------------------------------------------------------------------------- step

    def use_data(self, config: RunConfig, prepared: Prepared) -> None:
        self._completions = Completions(self.program, config, prepared)

    def batch(
        self,
        state: State,
        frozen: Frozen,
        batch: Mapping[str, Any],
        *,
        on_part: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> Mapping[str, Any]:
        step = int(jax.device_get(state["step"]))
        if step % self.objective.num_iterations:
            # a copy: the state is donated to the step
            return self._copied(state[KEPT], compiling=compiling)
        params = join(state["params"], frozen.get("base", {}))
        records = jax.device_get(self._gathered(batch[RECORD], compiling=compiling))
        assert self._completions is not None, "use_data"
        written = self._completions(
            params,
            records,
            record_rng(self.program.seed, step).randint(2**31 - 1),
            meshes.local_rows(len(records), self.mesh),
            on_part=on_part,
            compiling=compiling,
        )
        rows = meshes.to_global(written, self.mesh)
        return self._rolled(params, rows, compiling=compiling)

    def step(
        self, state: State, frozen: Frozen, batch: Mapping[str, jax.Array]
    ) -> tuple[State, dict]:
        new, metrics = super().step(state, frozen, batch)
        return ({**new, KEPT: dict(batch)} if self.keeps else new), metrics

    def lower(self, batch_spec: Mapping[str, jax.ShapeDtypeStruct]) -> Any:
        return super().lower(self.rollout_spec)

    # ------------------------------------------------------------------------ compiled once a run

    @cached_property
    def _gathered(self) -> Ahead:
        return Ahead(jax.jit(lambda x: x, out_shardings=meshes.replicated(self.mesh)))

    @cached_property
    def _copied(self) -> Ahead:
        return Ahead(jax.jit(lambda tree: jax.tree.map(jnp.copy, tree)))

    @cached_property
    def _rolled(self) -> Ahead:
        program, objective = self.program, self.objective

        def rollout(params: Any, rows: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
            found = objective.rollout(rows)
            k = 1 if program.mesh.shape["stage"] > 1 else program.accumulation
            micro = {name: meshes.cut_rows(x, k) for name, x in found.items()}

            def read(part: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
                return objective.read_again(nnx.merge(program.graphdef, params), part)

            with pipelined(Schedule(program.accumulation, program.stage_repeats)):
                more = jax.lax.map(read, micro)
            return {**found, **{name: meshes.join_rows(x) for name, x in more.items()}}

        shardings = {name: x.sharding for name, x in self.rollout_spec.items()}
        return Ahead(jax.jit(rollout, out_shardings=shardings))


class Completions:
    """What the model writes for prompts of the training records, graded."""

    def __init__(self, program: Program, config: RunConfig, prepared: Prepared) -> None:
        """Raises `UserError` for a prompt that leaves no room, for a reward that is not there, and
        where nothing ends a completion and the objective needs it.
        """
        objective, task = program.objective, prepared.task
        assert isinstance(objective, OnPolicy) and task is not None
        self.task, self.tokenizer, self.model = task, prepared.tokenizer, program.model
        self._split: Any = prepared.splits["train"]
        self._ends = ends_of(config.data, prepared.manifest, self.tokenizer)
        self._grade = objective.graded(task)
        self._length = objective.transform_spec(prepared.row_spec).sizes["T"] + 1
        self._max_tokens = objective.max_tokens
        sampling = Sampling(
            max_tokens=objective.max_tokens,
            temperature=objective.temperature,
            top_k=objective.top_k,
            top_p=objective.top_p,
        )
        ids = ids_of(self.tokenizer, config.sample.eos_ids, ends=self._ends)
        objective.check_ends(ids.eos_ids)
        self._room = self._length - objective.max_tokens
        self._generator = Generator(
            program,
            sampling,
            eos_id=ids.eos_ids,
            pad_id=ids.pad_id,
            prompt_length=max(self._room, 1),
        )
        self._check_prompts()

    def __call__(
        self,
        params: Any,
        records: np.ndarray,  # [B] numbers
        seed: int,
        rows: Sequence[int],
        **waiting: Any,
    ) -> dict[str, np.ndarray]:
        """The rows `rows` of the batch that completes these records, as `OnPolicy.written_spec`
        says. `waiting`: as of `Generator.with_scores`.
        """
        known = {int(number): self._prompt(int(number)) for number in {*records.tolist()}}
        prompts = [known[int(number)] for number in records]
        with jax.transfer_guard("allow"):  # the generator reads what it wrote
            written = self._generator.with_scores(params, prompts, seed=seed, **waiting)
        made = [self._row(int(records[r]), prompts[r], written[r][0].tolist()) for r in rows]
        return stack(made)

    def _record(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self._split.records_of(number)[0]
        return found

    def _prompt(self, number: int) -> list[int]:
        text = self.task.prompt(self._record(number))
        return encode_prompt(self.tokenizer, text, self.model, self._ends)

    def _row(self, number: int, prompt: list[int], drawn: list[int]) -> dict[str, Any]:
        """A prompt with its completion, whose last token is an end of the text if there is one."""
        ends = (n for n, i in enumerate(drawn) if i in self._generator.eos_ids)
        count = next(ends, None)
        completion = drawn if count is None else drawn[: count + 1]
        # later ids, such as sentinels, add nothing to a text
        text = [i for i in drawn[:count] if i < self.tokenizer.vocab_size]
        tokens = np.full(self._length, self._generator.pad_id, np.int32)
        size = len(prompt) + len(completion)
        tokens[:size] = [*prompt, *completion]
        place = np.arange(self._length)
        real = (place < size).astype(np.int32)
        weights = ((place >= len(prompt)) & (place < size)).astype(np.float32)
        return {
            "tokens": tokens[:-1],
            "targets": tokens[1:],
            "loss_weights": weights[1:],
            "segment_ids": real[:-1],
            "positions": (place * real).astype(np.int32)[:-1],
            "truncated": np.float32(count is None),
            "rewards": self._grade(self._record(number), self.tokenizer.decode(text)),
        }

    def _check_prompts(self) -> None:
        """Raises `UserError` for a training record whose prompt is too long."""
        fix = "raise data.seq_len, or lower objective.max_tokens"
        if self._room < 1:
            raise UserError(
                f"objective.max_tokens: {self._max_tokens} of the {self._length} tokens of a row "
                f"leave no room for a prompt; {fix}"
            )
        # where prompt and reference are short together, the prompt is short as well
        for number in np.flatnonzero(np.asarray(self._split.lengths) > self._room).tolist():
            size = len(self._prompt(number))
            if size > self._room:
                raise UserError(
                    f"data.seq_len: the prompt of training record {number} has {size} tokens, and "
                    f"rows of {self._length} have room for {self._room} beside "
                    f"objective.max_tokens; {fix}"
                )
