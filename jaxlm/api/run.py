"""A run that has weights: it generates, scores, predicts and is measured.

A `Run` reads its weights when they are first needed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack, overload

import numpy as np

from jaxlm.api.forward import Forward
from jaxlm.api.prediction import Given, Prediction, Predictor
from jaxlm.core.config import UserError, type_name
from jaxlm.core.files import read_json
from jaxlm.core.measures import values_of
from jaxlm.core.types import Tokenizer
from jaxlm.data.prompts import asked_as, ends_of, ids_of
from jaxlm.evals.run import evaluate_run
from jaxlm.generate import Sampling, SamplingOptions, Writer, writer_of
from jaxlm.hf.opened import run_of
from jaxlm.nn.stored_kernel import StoredAs
from jaxlm.run import RunConfig, load_saved, saved_config
from jaxlm.runs.folder import RunDir
from jaxlm.runs.trackers import read_metrics
from jaxlm.training.loading import load_trained
from jaxlm.training.program import Program
from jaxlm.training.started import saved_tokenizer
from jaxlm.vectors.table import WordVectors

log = logging.getLogger("jaxlm")

Texts = Sequence[str] | Sequence[Sequence[int]]
MOST_WRITERS = 4  # ways to generate whose compiled programs a run keeps


def load(
    folder: str | Path,
    *,
    step: int | str | None = None,
    overrides: Iterable[str] = (),
    weights: StoredAs | None = None,
) -> Run:
    """The run of a folder, for use: trained, or imported by `jaxlm import hf`.

    A folder in Hugging Face's format is imported into the cache once, and used from there.

    step: a checkpoint, or "best" (`checkpoint.keep_best`); None: the newest good one.
    overrides: "key=value" texts, settings that the run is used with, such as
    "data.task.too_long=cut". weights: "int8" or "nf4" stores kernels in 8 or 4 bits
    (`jaxlm.training.narrow`); None: as the run has them. Raises `UserError` for a folder without a
    run.
    """
    folder = run_of(folder)
    saved_config(folder)
    return Run(folder, step=step, overrides=overrides, weights=weights)


class Run:
    """A run that has weights."""

    def __init__(
        self,
        folder: str | Path,
        *,
        step: int | str | None = None,
        overrides: Iterable[str] = (),
        weights: StoredAs | None = None,
    ) -> None:
        self.path = Path(folder)
        self._step, self.overrides, self._weights = step, tuple(overrides), weights
        self._writers: dict[tuple[bool | None, Sampling], Writer] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def config(self) -> RunConfig:
        """The resolved config of the run, with what overrides it."""
        return load_saved(self.path, self.overrides).config

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
        _, program, params, step = load_trained(
            str(self.path),
            overrides=self.overrides,
            step=self._step,
            weights=self._weights,
            report=log.info,
        )
        return program, params, step

    # --------------------------------------------------------------------------------- generation

    @overload
    def generate(  # type: ignore[overload-overlap]  # a text is a sequence of texts, too
        self,
        prompts: str,
        *,
        seed: int = 0,
        chat: bool | None = None,
        **options: Unpack[SamplingOptions],
    ) -> str: ...
    @overload
    def generate(
        self,
        prompts: Sequence[str],
        *,
        seed: int = 0,
        chat: bool | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[str]: ...

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        seed: int = 0,
        chat: bool | None = None,
        **options: Unpack[SamplingOptions],
    ) -> str | list[str]:
        """The text that the model writes after each prompt.

        chat: a prompt is a user's message, or messages as JSON, and what is written is the answer;
        False: text that is continued; None: as the run's task says.

        options: those of `jaxlm.generate.Sampling` that differ from `sample:` of the run:
        `max_tokens`, `temperature`, `top_p`, `repetition_penalty`, `stop` and others.
        Raises `UserError` for an unknown one.
        """
        single = isinstance(prompts, str)
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        writer = self.writer(self.config.sample.asked(options), chat)
        written = writer(self.params, texts, seed=seed)
        return written[0] if single else written

    def writer(self, sampling: Sampling, chat: bool | None = None) -> Writer:
        """A writer with this sampling, for `Run.params`; the latest ones are kept, with what they
        compiled. chat: as of `generate`. Raises `UserError` for a model that writes no text.
        """
        if why := self.program.objective.why_silent(self.config.model):
            raise UserError(f"{self.path}: its objective {why}; generate from a causal_lm run")
        key = chat, sampling
        if key not in self._writers:
            ends = asked_as(self.ends, chat)
            trained = self.config.data is not None
            ids = ids_of(self.tokenizer, self.config.sample.eos_ids, trained=trained, ends=ends)
            writer = writer_of(self.program, sampling, self.tokenizer, ids, ends)
            self._writers = dict([*self._writers.items()][1 - MOST_WRITERS :]) | {key: writer}
        return self._writers[key]

    @cached_property
    def ends(self) -> Any:
        """The beginning and end of texts in the data that the model was trained on."""
        manifest = RunDir(self.path).data_manifest
        values = read_json(manifest, "restore it") if manifest.is_file() else {}
        return ends_of(self.config.data, values, self.tokenizer)

    # ------------------------------------------------------------------------- inside of the model

    @cached_property
    def _forward(self) -> Forward:
        return Forward(self)

    def logits(self, texts: Texts) -> np.ndarray:
        """Float32 logits [B, T, V] at each token of each text; rows are padded on the right.

        texts: texts, or lists of token ids.
        """
        return self._forward.logits(texts)

    def hidden(self, texts: Texts, layer: int | None = None) -> np.ndarray:
        """Hidden states [B, T, D] after a layer (0: the embedding), or after the final norm (None).

        Only a Transformer keeps the states of its layers.
        """
        return self._forward.hidden(texts, layer)

    @cached_property
    def vectors(self) -> WordVectors:
        """The words of the vocabulary and their vectors, of a model that learns some.

        Raises `UserError` for another model.
        """
        model = self.config.model
        if not model.has_word_vectors:
            raise UserError(
                f"{self.path}: model.type {type_name(type(model))} has no vectors of words; name a "
                "run of one that learns them, such as word_vectors or glove"
            )
        rows = model.word_vectors(self.params, self.tokenizer)
        assert rows is not None, "has_word_vectors"
        spelled = model.spelled_vector(self.params, self.tokenizer)
        return WordVectors.of_tokenizer(self.tokenizer, rows, spelled)

    def perplexity(self, texts: Texts) -> list[float]:
        """exp of the mean negative log-likelihood of each text's tokens after its first."""
        return self._forward.perplexity(texts)

    # --------------------------------------------------------------------------------- prediction

    @cached_property
    def _predictor(self) -> Predictor:
        return self.predictor()

    def predictor(self, batch_size: int | None = None) -> Predictor:
        """A predictor as used by `predict`, compiled once for batches of this size; None: those of
        the evaluation.
        """
        return Predictor(self, batch_size)

    def predict(self, records: Given) -> list[Prediction]:
        """The prediction of the run's objective for each record, in order: one dict a record.

        A classifier gives {"label": "good", "score": 0.93, "scores": {"bad": 0.07, "good": 0.93}},
        with probabilities in [0, 1] that sum to 1. `Task.prediction` says what other tasks give.

        records: dicts of the columns of the task or of the run's own files, of which the answer is
        not needed; texts, where the task needs one column; or the path of a file (csv, jsonl,
        parquet, text) that has the columns. A text longer than `data.seq_len` is cut as in
        training. Batches are of `eval.batch_size` rows, or those of training.

        Raises `UserError` for a run without a task (running text, an import), an empty list, a
        missing column and a blank text, with the record's number from 0, or its file and line.
        """
        return self._predictor(records)

    # --------------------------------------------------------------------------------- evaluation

    def evaluate(self, overrides: Iterable[str] = ()) -> dict[str, float]:
        """Figures over the whole validation split: {"eval/loss": ..., "eval/perplexity": ...}, and
        of each of the config's `evaluators` over its split: {"eval/web/loss": ...}.

        overrides: "key=value" texts, such as other data.
        """
        _, measures = evaluate_run(
            str(self.path),
            overrides=(*self.overrides, *overrides),
            step=self._step,
            report=log.info,
        )
        return values_of(measures)
