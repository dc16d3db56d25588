"""Completions that the model writes for prompts of training records, as rows of text.

    completions = Completions(program, config, prepared)
    rows = completions(params, records, seed)      # this process's, numpy

A row has one completion after its prompt, or several where the objective packs them. How many rows
these need depends on their lengths: a batch has B rows or a half, a quarter, ... of them, the
fewest that all completions fit in. So none is ever left out or cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm import mesh as meshes
from jaxlm.core.config import UserError
from jaxlm.data.prompts import encode_prompt, ends_of, ids_of
from jaxlm.data.rows.batched import stack
from jaxlm.data.rows.encoded import lay_out
from jaxlm.data.rows.packing import best_fit_blocks
from jaxlm.data.store.prepared import Prepared
from jaxlm.generate.generator import Generator
from jaxlm.objectives.on_policy import COMPLETION, OnPolicy
from jaxlm.run import RunConfig
from jaxlm.training.program import Program


class Completion(NamedTuple):
    """A prompt and what was written after it."""

    ids: np.ndarray  # [n], to the end of the text, which is one of them if it has one
    num_prompt: int
    text: list[int]  # its own ids, without that end
    truncated: bool  # whether it has no end


def rows_for(filled: int, size: int, multiple: int) -> int:
    """The rows of a batch that has `filled` ones: `size`, its half, its quarter, ..., of which the
    mesh takes a `multiple`.
    """
    while size % (2 * multiple) == 0 and size // 2 >= filled:
        size //= 2
    return size


class Completions:
    """The texts that the model writes for prompts of the training records."""

    def __init__(self, program: Program, config: RunConfig, prepared: Prepared) -> None:
        """Raises `UserError` for a prompt that leaves no room, for a reward that is not there, and
        where nothing ends a completion and the objective needs it.
        """
        objective, task = program.objective, prepared.task
        assert isinstance(objective, OnPolicy) and task is not None
        self.task, self.tokenizer, self.model = task, prepared.tokenizer, program.model
        self._mesh, self._packs, self._rows = program.mesh, objective.packs, prepared.row_spec
        self._multiple = program.accumulation * meshes.batch_parts(program.mesh)
        self._split: Any = prepared.splits["train"]
        self._ends = ends_of(config.data, prepared.manifest, self.tokenizer)
        self._judge = objective.judge(task)
        self._as_row = objective.written_transform(self.tokenizer)
        self._length = objective.transform_spec(prepared.row_spec).sizes["T"] + 1
        self._max_tokens = objective.max_tokens
        ids = ids_of(self.tokenizer, config.sample.eos_ids, ends=self._ends)
        objective.check_ends(ids.eos_ids)
        self._room = self._length - objective.max_tokens
        self._generator = Generator(
            program,
            objective.sampling,
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
        **waiting: Any,
    ) -> dict[str, np.ndarray]:
        """This process's rows of the batch that completes these records, as `OnPolicy.rollout` is
        given them. `waiting`: as of `Generator.with_scores`.
        """
        known = {int(number): self._prompt(int(number)) for number in {*records.tolist()}}
        prompts = [known[int(number)] for number in records]
        with jax.transfer_guard("allow"):  # the generator reads what it wrote
            written = self._generator.with_scores(params, prompts, seed=seed, **waiting)
        found = [
            self._completion(prompt, drawn.tolist())
            for prompt, (drawn, _) in zip(prompts, written, strict=True)
        ]
        groups = self._groups([len(each.ids) for each in found])
        mine, own = (meshes.local_rows(len(x), self._mesh) for x in (groups, found))
        rows = [self._row(groups[r], found) for r in mine]
        judged = [self._judged(int(records[i]), found[i]) for i in own]
        return {**stack(rows), **stack(judged)}

    def _groups(self, lengths: list[int]) -> list[list[int]]:
        """The completions of each row of the batch."""
        if not self._packs:
            return [[i] for i in range(len(lengths))]
        order, first = best_fit_blocks(np.array(lengths), self._length)
        groups = [order[a:b].tolist() for a, b in pairwise(first.tolist())]
        size = rows_for(len(groups), len(lengths), self._multiple)
        return groups + [[] for _ in range(size - len(groups))]

    def _record(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self._split.records_of(number)[0]
        return found

    def _prompt(self, number: int) -> list[int]:
        text = self.task.prompt(self._record(number))
        return encode_prompt(self.tokenizer, text, self.model, self._ends)

    def _completion(self, prompt: list[int], drawn: list[int]) -> Completion:
        ends = (n for n, i in enumerate(drawn) if i in self._generator.eos_ids)
        count = next(ends, None)
        kept = drawn if count is None else drawn[: count + 1]
        ids = np.array([*prompt, *kept], np.int32)
        return Completion(ids, len(prompt), drawn[:count], count is None)

    def _row(self, group: list[int], found: Sequence[Completion]) -> dict[str, Any]:
        """Completions in a row of text, in which their own tokens alone have a weight."""
        sizes = [len(found[i].ids) for i in group]
        examples = [
            {
                "tokens": found[i].ids,
                "loss_weights": (np.arange(size) >= found[i].num_prompt).astype(np.float32),
            }
            for i, size in zip(group, sizes, strict=True)
        ]
        raw = lay_out(examples, self._rows, 0) if group else self._rows.padding()
        row = self._as_row(raw, 0)
        if self._packs:
            numbers = np.zeros(self._length, np.int32)
            numbers[: sum(sizes)] = np.repeat(np.array(group, np.int32), sizes)
            row[COMPLETION] = numbers[:-1]
        return row

    def _judged(self, number: int, found: Completion) -> dict[str, Any]:
        # later ids, such as sentinels, add nothing to a text
        text = self.tokenizer.decode([i for i in found.text if i < self.tokenizer.vocab_size])
        more = self._judge(self._record(number), text)
        return {"truncated": np.float32(found.truncated), **more}

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
