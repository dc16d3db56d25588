"""Trains and uses runs from Python: here the parts of a run are put together.

    run = jaxlm.train("configs/quickstart.yaml", ["train.steps=100"])
    run.metrics[-1]["eval/loss"]
    run.generate("To be, or not", max_tokens=32)

    run = jaxlm.load("runs/quickstart")         # or an imported Hugging Face model's run folder
    run.logits(["To be"]).shape                 # (1, 5, 82)
    run.perplexity(["To be, or not to be"])

A `Run` reads its weights when they are first needed. Every method raises `UserError` for a mistake
of the caller.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlm import mesh as meshes
from jaxlm.core import config as configs
from jaxlm.core.config import Resolved, UserError
from jaxlm.core.exit_codes import DONE, INTERRUPTED
from jaxlm.core.files import read_json
from jaxlm.core.renames import renamed
from jaxlm.core.types import Tokenizer
from jaxlm.data.prompts import encode_prompt, ends_of, ids_of
from jaxlm.distributed.signals import Signals, Stopped
from jaxlm.evals.loss import evaluate_run, evaluator_of
from jaxlm.evals.samples import Sampler
from jaxlm.generate import Generator, Sampling, Writer
from jaxlm.run import RunConfig, load_run, load_saved, saved_config
from jaxlm.runs.files import folder_problems
from jaxlm.runs.folder import RunDir
from jaxlm.runs.log import logging_to
from jaxlm.runs.stopwatch import Stopwatch
from jaxlm.runs.trackers import read_metrics
from jaxlm.training import session as sessions
from jaxlm.training.compatibility import check_schedule
from jaxlm.training.loop import Loop
from jaxlm.training.outcome import Outcome, finished
from jaxlm.training.program import Program
from jaxlm.training.session import Session, load_trained, saved_tokenizer

log = logging.getLogger("jaxlm")


def train(config: str | Path | RunConfig, overrides: Iterable[str] = ()) -> Run:
    """Trains a run to its end, from the newest checkpoint of its folder, and returns it.

    config: a YAML file, or a `RunConfig` with a `run_dir`. overrides: "key=value" texts as on the
    command line. Raises `UserError` for a mistake of the user, and `RuntimeError` where the run
    stopped before its end.
    """
    if isinstance(config, RunConfig):
        marks = {}
        if overrides:
            layer = configs.Layer(configs.to_dict(config))
            layer.merge(configs.read_overrides(overrides))
            layer = renamed(layer)
            config, marks = configs.parse(RunConfig, layer.values, layer.marks), layer.marks
        if config.run_dir is None:
            raise UserError("run_dir: is required; name a folder for the run")
        resolved = Resolved(config, marks)
    else:
        resolved = load_run(config, overrides)
    outcome = fit(resolved)
    if outcome.code != DONE:
        raise RuntimeError(outcome.message)
    return Run(resolved.config.run_dir or "")


def load(folder: str | Path, *, step: int | None = None) -> Run:
    """The run of a folder, for use: trained, or imported by `jaxlm import hf`.

    step: a checkpoint; None: the newest good one. Raises `UserError` where there is no run.
    """
    saved_config(folder)
    return Run(folder, step=step)


class Run:
    """A run that has weights."""

    def __init__(self, folder: str | Path, *, step: int | None = None) -> None:
        self.path = Path(folder)
        self._step = step

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def config(self) -> RunConfig:
        """The resolved config of the run."""
        return load_saved(self.path).config

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, in order: {"step": ..., "train/loss": ..., ...}."""
        path = RunDir(self.path).metrics
        return read_metrics(path) if path.is_file() else []

    @property
    def params(self) -> dict[str, Any]:
        """The parameters, a nested dict of jax arrays; their running average where one is kept."""
        return self._loaded[1]

    @property
    def step(self) -> int:
        """The optimizer step of the checkpoint that is used."""
        return self._loaded[2]

    @property
    def program(self) -> Program:
        """The model's graph, mesh and objective."""
        return self._loaded[0]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return saved_tokenizer(RunDir(self.path))

    @cached_property
    def _loaded(self) -> tuple[Program, dict[str, Any], int]:
        _, program, params, step = load_trained(str(self.path), step=self._step, report=log.info)
        return program, params, step

    # --------------------------------------------------------------------------------- generation

    @overload
    def generate(self, prompts: str, *, seed: int = 0, **sampling: Any) -> str: ...
    @overload
    def generate(self, prompts: Sequence[str], *, seed: int = 0, **sampling: Any) -> list[str]: ...

    def generate(
        self, prompts: str | Sequence[str], *, seed: int = 0, **sampling: Any
    ) -> str | list[str]:
        """The text that the model writes after each prompt.

        sampling: `max_tokens`, `temperature`, `top_k`, `top_p`, `num_beams`, `length_penalty`, as
        `jaxlm.generate.Sampling` has them.
        """
        if why := self.program.objective.why_silent(self.config.model):
            raise UserError(f"{self.path}: its objective {why}; generate from a causal_lm run")
        single = isinstance(prompts, str)
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        ids = ids_of(
            self.tokenizer, self.config.sample.eos_ids, trained=self.config.data is not None
        )
        generator = Generator(self.program, Sampling(**sampling), **ids)
        written = Writer(self.tokenizer, generator, self._ends)(self.params, texts, seed=seed)
        return written[0] if single else written

    @cached_property
    def _ends(self) -> Any:
        manifest = RunDir(self.path).data_manifest
        values = read_json(manifest, "restore it") if manifest.is_file() else {}
        return ends_of(self.config.data, values, self.tokenizer)

    # ------------------------------------------------------------------------- inside of the model

    def logits(self, texts: Sequence[str] | Sequence[Sequence[int]]) -> np.ndarray:
        """Float32 logits [B, T, V] at each token of each text; rows are padded on the right.

        texts: texts, or lists of token ids.
        """
        tokens, lengths = self._rows(texts)
        return np.asarray(self._forward(tokens, lengths, None))

    def hidden(
        self, texts: Sequence[str] | Sequence[Sequence[int]], layer: int | None = None
    ) -> np.ndarray:
        """Hidden states [B, T, D] after a layer (0: the embedding), or after the final norm (None).

        Only a Transformer keeps the states of its layers.
        """
        tokens, lengths = self._rows(texts)
        states = self._forward(tokens, lengths, "final" if layer is None else layer)
        return np.asarray(states, dtype=np.float32)

    def perplexity(self, texts: Sequence[str] | Sequence[Sequence[int]]) -> list[float]:
        """exp of the mean negative log-likelihood of each text's tokens after its first."""
        tokens, lengths = self._rows(texts)
        if min(lengths) < 2:
            raise UserError("texts: one has less than two tokens, so none is predicted")
        logits = self._forward(tokens, lengths, None)[:, :-1]
        found = jnp.take_along_axis(
            jax.nn.log_softmax(logits), jnp.asarray(tokens)[:, 1:, None], axis=-1
        )[..., 0]
        real = np.arange(tokens.shape[1] - 1)[None] < np.asarray(lengths)[:, None] - 1
        mean = np.where(real, np.asarray(found, np.float64), 0.0).sum(1) / real.sum(1)
        return [math.exp(-value) for value in mean]

    def _rows(self, texts: Sequence[Any]) -> tuple[np.ndarray, list[int]]:
        if isinstance(texts, str):
            raise UserError("texts: is one text; give a list of texts")
        if not texts:
            raise UserError("texts: is empty; give at least one")
        model = self.config.model
        if model.encodes:
            raise UserError(f"{self.path}: an encoder-decoder has logits for pairs of texts only")
        rows = [
            encode_prompt(self.tokenizer, text, model, self._ends)
            if isinstance(text, str)
            else [int(i) for i in text]
            for text in texts
        ]
        if any(not row for row in rows):
            raise UserError("texts: one has no tokens; give some text")
        lengths = [len(row) for row in rows]
        limit = model.max_positions
        if limit is not None and max(lengths) > limit:
            raise UserError(
                f"texts: {max(lengths)} tokens pass the model's {limit} positions; shorten them"
            )
        multiple = meshes.batch_parts(self.program.mesh)
        tokens = np.zeros((len(rows) + -len(rows) % multiple, max(lengths)), np.int32)
        for n, row in enumerate(rows):
            tokens[n, : len(row)] = row
        return tokens[: len(rows)], lengths

    def _forward(self, tokens: np.ndarray, lengths: Sequence[int], want: Any) -> jax.Array:
        """Logits (None), final hidden states ("final"), or the states after a layer (int)."""
        count = len(tokens)
        extra = -count % meshes.batch_parts(self.program.mesh)
        tokens = np.concatenate([tokens, np.zeros((extra, tokens.shape[1]), np.int32)])
        places = np.arange(tokens.shape[1], dtype=np.int32)
        real = places[None] < np.asarray([*lengths, *[0] * extra])[:, None]
        batch: Mapping[str, np.ndarray] = {
            "tokens": tokens,
            "positions": np.broadcast_to(places, tokens.shape).copy(),
            "segment_ids": real.astype(np.int32),
        }
        with jax.set_mesh(self.program.mesh):
            return self._compiled(want)(
                self.params, meshes.to_global_whole(batch, self.program.mesh)
            )[:count]

    def _compiled(self, want: Any) -> Any:
        if want not in self._functions:
            graphdef = self.program.graphdef

            def forward(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
                model = nnx.merge(graphdef, params)
                if want is None:
                    return model.logits(model(**batch).hidden)
                if want == "final":
                    return model(**batch).hidden
                return model(**batch, with_states=True).states[want]

            whole = meshes.replicated(self.program.mesh)
            self._functions[want] = jax.jit(forward, out_shardings=whole)
        return self._functions[want]

    @cached_property
    def _functions(self) -> dict[Any, Any]:
        return {}

    # --------------------------------------------------------------------------------- evaluation

    def evaluate(self, overrides: Iterable[str] = ()) -> dict[str, float]:
        """Figures over the whole validation split: {"eval/loss": ..., "eval/perplexity": ...}.

        overrides: "key=value" texts, such as other data.
        """
        _, values, _ = evaluate_run(
            str(self.path), overrides=tuple(overrides), step=self._step, report=log.info
        )
        return values


def fit(
    resolved: Resolved[RunConfig], *, must_exist: bool = False, accept_data: bool = False
) -> Outcome:
    """Trains the run of a config to its end, from the newest good checkpoint of its folder.

    `must_exist`: the folder holds a run. `accept_data`: the data may have changed since the run
    began. Raises `UserError` for a mistake of the user.
    """
    first = jax.process_index() == 0
    run = RunDir(resolved.config.run_dir or "")
    if must_exist:
        saved_config(run.path)
    check_schedule(resolved.config, resolved.marks, None)
    sessions.check_trainable(run)
    sessions.check_checkpoints(run)
    with ExitStack() as stack:
        stack.enter_context(run.lock(jax.process_index()))
        watch = Stopwatch.load(run.path)
        stack.enter_context(logging_to(run, first))
        signals = stack.enter_context(Signals())
        try:
            with watch("setup"):
                if first and sessions.has_started(run):
                    for problem in folder_problems(run):
                        log.warning("%s", problem)
                if must_exist:
                    sessions.check_changes(run, resolved.config)
                ended = finished(run, resolved.config) if must_exist else None
                if ended is not None:
                    return ended
                session = Session.open(resolved.config, report=log.info, marks=resolved.marks)
                if not must_exist:
                    sessions.check_same_run(run, session.config)
                    ended = finished(run, session.config)
            if ended is not None:
                return ended
            return Loop(
                session,
                run,
                watch,
                signals,
                resolved.marks,
                evaluator=evaluator_of(session),
                sampler=Sampler(session),
                accept_data=accept_data,
            ).run()
        except Stopped as name:
            return Outcome(INTERRUPTED, f"stopped by {name}; the same command continues {run}")
