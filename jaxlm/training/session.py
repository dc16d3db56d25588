"""A session: a resolved config with its data, its program and its learner, on a mesh.

    session = Session.open(config)
    state, step = find_state(session, reader)       # restoring.py

`train`, `eval` and `generate` have it in common.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxlm.core import config as configs
from jaxlm.core.config import UserError, type_name
from jaxlm.core.config_paths import anchored
from jaxlm.core.rows import RowSpec
from jaxlm.data.loader import Loader
from jaxlm.data.reading.fetch import default_cache_dir
from jaxlm.data.store.prepared import Prepared
from jaxlm.data.store.preparing import prepare
from jaxlm.data.tokenizers.base import Saved
from jaxlm.mesh import check_accumulation, local_rows
from jaxlm.run import RunConfig
from jaxlm.runs.folder import RunDir
from jaxlm.training.build import learner_of
from jaxlm.training.compatibility import (
    check_answers,
    check_fit,
    check_samples,
    check_schedule,
)
from jaxlm.training.learner import Learner
from jaxlm.training.program import Program
from jaxlm.training.references import check_references
from jaxlm.training.room import check_batch, check_room
from jaxlm.training.start_vectors import with_frozen
from jaxlm.training.started import has_started, lacks_tokenizer, saved_tokenizer

log = logging.getLogger("jaxlm")


def cache_dir(config: RunConfig) -> Path:
    """The folder of corpora, token stores and compiled programs."""
    return Path(config.cache_dir) if config.cache_dir else default_cache_dir()


def use_compilation_cache(config: RunConfig) -> None:
    """Compiled programs are kept on disk, so that a resumed run starts sooner."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache_dir(config) / "xla"))


def prepare_data(
    config: RunConfig, report: Callable[[str], None], *, workers: int | None = None
) -> Prepared:
    """The dataset, with the run's own tokenizer where the run has started already.

    `workers` processes tokenise; None: as many as make batches.
    """
    run, folder = RunDir(config.run_dir or ""), cache_dir(config)
    tokenizer = config.tokenizer
    if has_started(run) and not lacks_tokenizer(run):
        saved_tokenizer(run)  # is compared with the one that the run began with
        tokenizer = Saved(path=str(run.tokenizer))
    workers = config.train.data_workers if workers is None else workers
    return prepare(config.data, tokenizer, folder, workers=workers, report=report)


def resolve(
    config: RunConfig, prepared: Prepared, marks: Mapping[str, configs.Mark] | None = None
) -> RunConfig:
    """The config with what only the data can tell filled in: vocabulary, classes, ids, steps.

    Raises `UserError` where the parts do not fit each other; `marks` say where each was set.
    """
    size, wanted = prepared.tokenizer.vocab_size, config.model.vocab_size
    if wanted is not None and wanted < size:
        raise UserError(
            f"model.vocab_size: {wanted} but the tokenizer has {size} ids; "
            f"set it to null or to at least {size}"
        )
    steps = config.train.steps
    if steps is None:
        rows = _rows_per_epoch(config, prepared)
        epochs = config.train.epochs or 0.0  # one of the two is set: TrainConfig.validate
        # the last batch of an epoch may be a part: no row is left out (1e-9: 0.1 is not a tenth)
        steps = max(1, math.ceil(epochs * rows / config.train.batch_size - 1e-9))
        ran = config.replace(train=config.train.replace(steps=steps, epochs=None))
        check_schedule(ran, marks or {}, epochs)
    config = _unfrozen_by_steps(config, prepared)
    check_answers(config.objective, prepared)
    model = config.model.replace(vocab_size=wanted or size)
    model = model.for_data(prepared.row_spec, prepared.tokenizer)
    objective = config.objective.resolve(prepared, model)
    config = config.replace(
        model=objective.complete(model),
        objective=objective,
        train=config.train.replace(steps=steps, epochs=None),
    )
    check_samples(config, prepared)
    return config


def _rows_per_epoch(config: RunConfig, prepared: Prepared) -> int:
    """The rows of the training batches in a pass over the records."""
    batch = config.train.batch_size
    drawn = prepared.rows("train", batch_size=batch, seed=0)
    return config.objective.arranged(drawn, batch).rows_per_epoch


def _unfrozen_by_steps(config: RunConfig, prepared: Prepared) -> RunConfig:
    """`optimizer.unfreeze` in steps, where it is in epochs."""
    optimizer = config.optimizer
    if optimizer is None or optimizer.unfreeze is None:
        return config
    steps = _rows_per_epoch(config, prepared) / config.train.batch_size
    return config.replace(optimizer=optimizer.replace(unfreeze=optimizer.unfreeze.in_steps(steps)))


@dataclass(frozen=True)
class Session:
    """A resolved config with its data, its program and its learner, on a mesh."""

    config: RunConfig
    prepared: Prepared
    program: Program
    learner: Learner | None = None  # None: for use without training
    beside: Mapping[str, Any] | None = None  # the references' trees, where there is no learner

    @classmethod
    def open(
        cls,
        config: RunConfig,
        report: Callable[[str], None] = print,
        marks: Mapping[str, configs.Mark] | None = None,
    ) -> Session:
        """Prepares the data and builds the program; allocates no parameter."""
        use_compilation_cache(config)
        config = with_frozen(config)
        mesh = config.mesh.build()  # first, so that a mesh that cannot be costs no preparation
        check_accumulation(config.train.batch_size, config.train.accumulation, mesh)
        check_fit(config)
        check_batch(config, mesh)
        prepared = prepare_data(config, report)
        config = resolve(config, prepared, marks)
        check_references(config, prepared.tokenizer)
        # as it is kept: the run may be resumed from another folder
        config = anchored(config).replace(run_dir=config.run_dir)
        learner = learner_of(config, mesh)
        check_room(learner)
        learner.use_data(config, prepared)
        return cls(config, prepared, learner.program, learner)

    @property
    def references(self) -> Mapping[str, Any]:
        """The trees of the frozen models that the objective asks for, by name."""
        found = self.beside or {} if self.learner is None else self.learner.frozen
        return {name: tree for name, tree in found.items() if name in self.program.references}

    def transform(self, seed: int) -> Any:
        """The objective's, which draws by `seed`."""
        return self.config.objective.host_transform(self.prepared.tokenizer, seed)

    @property
    def batch_rows(self) -> RowSpec:
        """The entries of a row of a batch."""
        return self.config.objective.transform_spec(self.prepared.row_spec)

    def train_loader(self) -> Loader:
        """The training batches. Raises `UserError` where a row is not as its spec says."""
        train = self.config.train
        rows = self.prepared.rows("train", batch_size=train.batch_size, seed=self.config.seed)
        loader = Loader(
            self.config.objective.arranged(rows, train.batch_size),
            self.transform(self.config.seed),
            train.batch_size,
            local_rows(train.batch_size, self.program.mesh),
            threads=train.data_threads,
            prefetch=train.prefetch,
            workers=train.data_workers,
        )
        self.batch_rows.check(loader.row(0), f"objective {type_name(type(self.config.objective))}")
        return loader
