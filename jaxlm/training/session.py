"""From a config to everything a run needs: data, program, run directory, state.

A session is what `train`, `eval` and `generate` have in common. The order in which a state is found
is fixed, and logged:

    1. resume   the newest good checkpoint of the run directory
    2. init     the weights of another run (`init.from`), trained here or imported
    3. scratch  drawn from the seed

A run directory that has checkpoints but no good one is an error; nothing falls through to a later
line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxlm import __version__
from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.checkpoint.state_io import StateMetadata
from jaxlm.core import config as configs
from jaxlm.core.config import UserError, type_name
from jaxlm.core.config_paths import anchored, path_keys
from jaxlm.core.files import write_atomic
from jaxlm.core.rows import RowSpec
from jaxlm.core.tree import flatten, select, unflatten
from jaxlm.data.loader import Loader
from jaxlm.data.reading.fetch import default_cache_dir
from jaxlm.data.store.prepared import Prepared
from jaxlm.data.tokenizers.base import Saved, load_tokenizer
from jaxlm.distributed.consensus import decide
from jaxlm.mesh import MeshConfig, check_accumulation, local_rows
from jaxlm.nn.heads.base import is_of_head
from jaxlm.run import RunConfig, load_saved, trajectory
from jaxlm.runs.environment import environment
from jaxlm.runs.files import read_own, write_own
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import (
    ACCEPT_DATA,
    Identity,
    Record,
    all_missing,
    check_tokenizer,
    code_sha256,
    data_change,
    digest_of,
    kept_files,
    read_record,
)
from jaxlm.training import base as bases
from jaxlm.training.build import learner_of, merged, program_of
from jaxlm.training.compatibility import check_fit, check_samples, check_schedule
from jaxlm.training.learner import Learner
from jaxlm.training.program import Program
from jaxlm.training.room import check_batch, check_room
from jaxlm.training.state import State

log = logging.getLogger("jaxlm")


def cache_dir(config: RunConfig) -> Path:
    """Where corpora, token stores and compiled programs are kept."""
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
    check_writable(folder)
    tokenizer = config.tokenizer
    if has_started(run) and not lacks_tokenizer(run):
        saved_tokenizer(run)  # is compared with the one that the run began with
        tokenizer = Saved(path=str(run.tokenizer))
    if config.data is None:
        raise UserError(
            "data: null, so there is nothing to work on; name some, such as "
            "data='{type: text, source: {type: text, files: a.txt}, seq_len: 128}'"
        )
    if tokenizer is None:
        raise UserError("tokenizer: null, so a text has no tokens; name one, tokenizer.type=...")
    workers = config.train.data_workers if workers is None else workers
    return config.data.prepare(tokenizer, folder, workers=workers, report=report)


def check_writable(folder: Path) -> None:
    """Makes the cache's folder; raises `UserError` where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK | os.X_OK) else "permission denied"
    except OSError as error:
        reason = (error.strerror or "cannot be made").lower()
    if reason:
        raise UserError(
            f"cache_dir: {folder}: {reason}; set cache_dir, or the variable JAXLM_CACHE, to a "
            "folder that can be written"
        )


def has_started(run: RunDir) -> bool:
    """Whether the folder holds a run that continues. Before its first save there is nothing to
    lose, and the config that is started next replaces what is there.
    """
    return run.checkpoints.is_dir() and any(run.checkpoints.iterdir())


def check_trainable(run: RunDir) -> None:
    """Raises `UserError` where the folder holds weights that were imported, which have no state."""
    if run.imported.is_file():
        raise UserError(
            f"{run}: was imported and has no optimizer state to go on from; train from its weights "
            f"in a run of their own: `jaxlm finetune CONFIG init.from={run}`"
        )


def saved_tokenizer(run: RunDir) -> Any:
    """The tokenizer that a run keeps; raises `UserError` where it was imported without one."""
    if lacks_tokenizer(run):
        raise UserError(
            f"{run}: was imported without a tokenizer, so a text has no tokens; put its "
            "tokenizer.json beside the weights and import them again"
        )
    tokenizer = load_tokenizer(run.tokenizer)
    check_tokenizer(run, tokenizer)
    return tokenizer


def lacks_tokenizer(run: RunDir) -> bool:
    """Whether the run was imported without a tokenizer."""
    if not run.imported.is_file() or run.tokenizer.exists():
        return False
    record, _ = read_record(run)
    return record is None or record.identity.tokenizer is None


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
        rows = prepared.rows("train", batch_size=config.train.batch_size, seed=0).rows_per_epoch
        epochs = config.train.epochs or 0.0  # one of the two is set: TrainConfig.validate
        # the last batch of an epoch may be a part: no row is left out (1e-9: 0.1 is not a tenth)
        steps = max(1, math.ceil(epochs * rows / config.train.batch_size - 1e-9))
        ran = config.replace(train=config.train.replace(steps=steps, epochs=None))
        check_schedule(ran, marks or {}, epochs)
    model = config.model.replace(vocab_size=wanted or size)
    objective = config.objective.resolve(prepared, model)
    config = config.replace(
        model=objective.complete(model),
        objective=objective,
        train=config.train.replace(steps=steps, epochs=None),
    )
    check_samples(config, prepared)
    return config


@dataclass(frozen=True)
class Session:
    """A resolved config with its data, its program and its learner, on a mesh."""

    config: RunConfig
    prepared: Prepared
    program: Program
    learner: Learner | None = None  # None: for use without training

    @classmethod
    def open(
        cls,
        config: RunConfig,
        report: Callable[[str], None] = print,
        marks: Mapping[str, configs.Mark] | None = None,
    ) -> Session:
        """Prepares the data and builds the program; allocates no parameter."""
        use_compilation_cache(config)
        mesh = config.mesh.build()  # first, so that a mesh that cannot be costs no preparation
        check_accumulation(config.train.batch_size, config.train.accumulation, mesh)
        check_fit(config)
        check_batch(config, mesh)
        prepared = prepare_data(config, report)
        config = resolve(config, prepared, marks)
        # as it is kept: the run may be resumed from another folder
        config = anchored(config).replace(run_dir=config.run_dir)
        learner = learner_of(config, mesh)
        check_room(learner)
        return cls(config, prepared, learner.program, learner)

    def transform(self, seed: int) -> Any:
        """The objective's, which draws by `seed`."""
        return self.config.objective.host_transform(self.prepared.tokenizer, seed)

    @property
    def batch_rows(self) -> RowSpec:
        """What is in a row of a batch."""
        return self.config.objective.transform_spec(self.prepared.row_spec)

    def train_loader(self) -> Loader:
        """The training batches. Raises `UserError` where a row is not as its spec says."""
        train = self.config.train
        loader = Loader(
            self.prepared.rows("train", batch_size=train.batch_size, seed=self.config.seed),
            self.transform(self.config.seed),
            train.batch_size,
            local_rows(train.batch_size, self.program.mesh),
            threads=train.data_threads,
            prefetch=train.prefetch,
            workers=train.data_workers,
        )
        self.batch_rows.check(loader.row(0), f"objective {type_name(type(self.config.objective))}")
        return loader


def write_run_files(
    run: RunDir, session: Session, marks: Mapping[str, Any], record: Record
) -> None:
    """What makes a folder a run: its config, tokenizer, data manifest, environment and identity."""
    run.checkpoints.mkdir(exist_ok=True)  # from now on, a run without this folder has lost it
    if not has_started(run):
        shutil.rmtree(run.tokenizer, ignore_errors=True)
        partial = run.path / ".tokenizer.tmp"
        shutil.rmtree(partial, ignore_errors=True)
        session.prepared.tokenizer.save(partial)
        partial.rename(run.tokenizer)
        _keep_originals(run, session.config.init.from_)
    run_id = record.identity.run_id
    write_own(run.data_manifest, _with_earlier(run, session.prepared.manifest), run_id)
    write_own(run.environment, environment(), run_id)
    where = {k: str(m) for k, m in marks.items()}
    write_own(run.marks, where, run_id)
    config = configs.to_yaml(session.config)
    before = run.config.read_bytes() if run.config.is_file() else None
    replaced = hashlib.sha256(before).hexdigest() if before is not None else None
    dataclasses.replace(
        record, config=config, replaced=replaced, marks=digest_of(where), files=kept_files(run)
    ).write(run)
    write_atomic(run.config, config)


def _with_earlier(run: RunDir, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with those that the run had before it, oldest first, under "earlier"."""
    try:
        before = read_own(run, run.data_manifest) if has_started(run) else {}
    except (FileNotFoundError, UserError):  # named when the run was opened
        before = {}
    earlier = before.pop("earlier", [])
    plain = json.loads(json.dumps(manifest))
    if before and before.get("content") != plain.get("content"):  # a place may change
        earlier = [*earlier, before]
    return {**plain, "earlier": earlier} if earlier else plain


def data_content(prepared: Prepared) -> dict[str, dict[str, Any]]:
    """What a run's identity keeps of its data: the content and the counts of each split."""
    counts = prepared.manifest["splits"]
    content = prepared.manifest["content"]
    return {name: {**counts.get(name, {}), **content[name]} for name in content}


def record_of(run: RunDir, session: Session, step: int | None, *, accept_data: bool) -> Record:
    """The record of a run that starts, or continues from `step`. Call it in every process.

    Raises `UserError` where the data is not what the run was trained on, unless `accept_data`, and
    where the processes have different data.
    """
    data = data_content(session.prepared)
    mine = json.dumps({name: content["sha256"] for name, content in data.items()})
    if decide("data", mine, lambda texts: "equal" if len({*texts}) == 1 else "") != "equal":
        raise UserError("data: the processes of this run read different data; give all the same")
    tokenizer = session.prepared.tokenizer.fingerprint()
    record, _ = read_record(run) if step is not None else (None, [])
    if record is None:
        identity = Identity.new(tokenizer=tokenizer, data=data)
        if step is not None:
            log.info("checkpoint %d: was saved by a version that kept no identity of a run", step)
        return Record(identity=identity, config="", saved=step is not None, before=step)
    identity = record.identity
    change = data_change(record, data)
    if change is not None:
        check_accepted(f"{run}: the data", change, accept_data)
        log.warning("the data has changed since step %d, which is accepted: %s", step, change)
        entry = {"flag": ACCEPT_DATA, "step": step, "time": time.time(), "change": change}
        identity = dataclasses.replace(identity, data=data, accepted=(*identity.accepted, entry))
    if identity.code != code_sha256():
        log.info(
            "the code of jaxlm is not that of the start before (%s, now %s)",
            f"{identity.version} {identity.code[:8]}",
            f"{__version__} {code_sha256()[:8]}",
        )
        identity = dataclasses.replace(identity, version=__version__, code=code_sha256())
    return dataclasses.replace(record, identity=identity, saved=True)


def check_accepted(what: str, change: str, accepted: bool) -> None:
    """Raises `UserError` where data that has changed was not accepted."""
    if not accepted:
        raise UserError(
            f"{what} is not what the run was trained on: {change}; put it back, or add "
            f"{ACCEPT_DATA} to use it as it is"
        )


def check_measured_data(
    run: RunDir, prepared: Prepared, accepted: bool, report: Callable[[str], None]
) -> None:
    """Raises `UserError` where the validation split is not the one that the run has measured."""
    record, _ = read_record(run)
    data = (record.identity.data if record else None) or {}
    if record is None or "validation" not in data:
        return
    held = {"validation": data["validation"]}
    record = dataclasses.replace(record, identity=dataclasses.replace(record.identity, data=held))
    now = {k: v for k, v in data_content(prepared).items() if k == "validation"}
    change = data_change(record, now)
    if change is not None:
        check_accepted(f"{run}: the data", change, accepted)
        report(f"the data has changed since the run was trained, which is accepted: {change}")


def check_checkpoints(run: RunDir) -> None:
    """Raises `UserError` where a run has lost all of its checkpoints: it is never begun again."""
    if has_started(run):
        return
    record, _ = read_record(run)
    lost = record is not None and (record.saved or not run.checkpoints.exists())
    if lost or run.result.exists():
        raise UserError(all_missing(run))


def _keep_originals(run: RunDir, source: str | None) -> None:
    """The files that a first stage was imported with come along, so that an export has them."""
    shutil.rmtree(run.originals, ignore_errors=True)
    if source is not None and RunDir(source).originals.is_dir():
        partial = run.path / ".hf.tmp"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(RunDir(source).originals, partial)
        partial.rename(run.originals)


def check_same_run(run: RunDir, config: RunConfig) -> None:
    """Raises `UserError`, with the differences, where the folder holds another config's run."""
    if not run.config.is_file() or not has_started(run):
        return
    lines = changes(run, config)
    if any(not line.startswith(_moved(run, config)) for line in lines):
        listed = "".join(f"\n  {line}" for line in lines)
        raise UserError(
            f"{run}: holds a run of another config; set run_dir to a new folder, or change back "
            f"(saved -> now):{listed}"
        )


def changes(run: RunDir, config: RunConfig, but: Collection[configs.Affects] = ()) -> list[str]:
    """The changes of a config that affect weights since the run saved it: "train.steps: 3 -> 6".

    but: what fields affect that are left out as well.
    """
    old, new = (trajectory(anchored(c)) for c in (load_saved(run.path).config, config))
    return configs.diff(configs.without(old, but), configs.without(new, but))


def _moved(run: RunDir, config: RunConfig) -> tuple[str, ...]:
    """The beginnings of lines about files of data, and the base, which may be in another folder.

    None where the run has no record of their content, by which they are compared.
    """
    record, _ = read_record(run)
    if record is None:
        return ()
    compared: tuple[str, ...] = ("data.",) if record.identity.data else ()
    compared += ("init.from",) if record.identity.frozen else ()
    return tuple(f"{key}:" for key in sorted(path_keys(config)) if key.startswith(compared))


def check_changes(run: RunDir, config: RunConfig) -> None:
    """Logs what a resumed run changes. Raises `UserError` where that would make it another run."""
    lines = changes(run, config)
    moved = _moved(run, config)
    fixed = [line for line in changes(run, config, configs.LOGGED) if not line.startswith(moved)]
    if fixed:
        listed = "".join(f"\n  {line}" for line in fixed)
        raise UserError(
            f"{run}: cannot go on as another run; leave these as they are, or start another with "
            f"`jaxlm train` (saved -> now):{listed}"
        )
    for line in lines:
        log.info("changed on the way (saved -> now): %s", line)
    _report_schedule(load_saved(run.path).config, config)


def _report_schedule(saved: RunConfig, now: RunConfig) -> None:
    """Another number of steps stretches the schedule: its rate may jump where the run continues."""
    end = saved.train.steps
    optimizers: tuple[Any, Any] = (saved.optimizer, now.optimizer)
    if end == now.train.steps or not all(hasattr(o, "schedule") for o in optimizers):
        return
    before, after = (
        float(o.learning_rate * o.schedule.build(c.train.steps)(end))
        for o, c in zip(optimizers, (saved, now), strict=True)
    )
    log.info(
        "the schedule is of %s steps now: the learning rate after step %s is %.3g, it was %.3g",
        now.train.steps,
        end,
        after,
        before,
    )


def find_state(
    session: Session, reader: CheckpointReader, latest: int | None = None
) -> tuple[State, int]:
    """The state to train from and its step, in the order that the module's docstring gives.

    `latest` is the reader's newest good step, where the caller has asked for it already.
    """
    learner, config = session.learner, session.config
    assert learner is not None
    step = reader.latest() if latest is None else latest
    if step is not None:
        log.info("restore order: resume <- checkpoint %d of %s", step, config.run_dir)
        if not learner.frozen:  # a rollback finds it there
            _restore_base(learner, config, reader, step)
        return reader.restore(step, learner.abstract_state(reader.read_metadata(step).arrays)), step
    source: dict[str, Any] = {"seed": config.seed}
    if config.init.from_ is not None:
        params, at = read_pretrained(session)
        state = learner.create(params)
        source = {"run": config.init.from_, "step": at}
    else:
        log.info("restore order: no checkpoint, no init.from: scratch, seed %d", config.seed)
        state = learner.create()
    if "base" in learner.frozen:
        source["sha256"] = param_sha256(learner.frozen["base"])
        learner.origins = {"base": source}
    return state, 0


def _restore_base(learner: Learner, config: RunConfig, reader: CheckpointReader, step: int) -> None:
    """Sets the frozen parameters of a learner to those that a checkpoint names, if it has any."""
    if base := bases.read_base(config, learner.program, reader, step):
        named = dict(bases.origin(reader, step))
        if "run" in named:
            named["run"] = config.init.from_  # where it is now
        learner.frozen, learner.origins = {"base": base}, {"base": named}


def read_pretrained(session: Session) -> tuple[dict[str, Any], int]:
    """(parameters, step) from the run that `init.from` names.

    A head is taken where that run has one of the same shape and labels, else it starts fresh.
    Raises `UserError` that lists parameters the source lacks or has in another shape, and where the
    source's tokenizer is not this run's: its ids would mean something else.
    """
    program, config = session.program, session.config
    source = RunDir(config.init.from_ or "")
    own = session.prepared.tokenizer.fingerprint()
    if lacks_tokenizer(source):
        log.info("%s has no tokenizer to compare with: its ids are taken as this one's", source)
    elif saved_tokenizer(source).fingerprint() != own:
        raise UserError(
            f"tokenizer: is not the one that {source} (init.from) was trained with; leave "
            "tokenizer out of the config, and that one is used"
        )
    reader = CheckpointReader(source.checkpoints, report=log.warning)
    step = reader.choose(config.init.step)
    if step is None:
        raise UserError(f"init.from: {source} has no checkpoint; name a run that has been trained")
    part = bases.params_part(reader, step, config.init.use_ema)
    leaves = flatten(program.abstract_params)
    head = {path: leaf.shape for path, leaf in leaves.items() if is_of_head(path)}
    found = _has_head(source, reader.read_metadata(step), part, head, config)
    fresh = sorted({*program.added, *(() if found else head)})
    taken = [path for path in leaves if path not in fresh]
    # before the others are read: a draw has all of them
    drawn = flatten(select(program.draw(), fresh.__contains__)) if fresh else {}
    params = bases.read_pretrained(config, program, taken, reader, step) | drawn
    log.info(
        "restore order: no checkpoint; init <- %s of step %d of %s: %d parameters taken, fresh: %s",
        part, step, source, len(taken), ", ".join(fresh) or "none",
    )  # fmt: skip
    return unflatten(params), step


def _has_head(
    source: RunDir, metadata: StateMetadata, part: str, head: Mapping[str, Any], config: RunConfig
) -> bool:
    """Whether a run has a head of these shapes, {path: shape}, for the same labels."""
    stored = {path: metadata.arrays.get(f"{part}/{path}") for path in head}
    if any(info is None or info.shape != head[path] for path, info in stored.items()):
        return False
    return load_saved(source.path).config.objective.labels == config.objective.labels


def load_trained(
    run_dir: str,
    *,
    overrides: tuple[str, ...] = (),
    step: int | str | None = None,
    mesh: Mesh | None = None,
    merge: bool = False,
    report: Any = print,
) -> tuple[RunConfig, Program, Any, int]:
    """(config, program, parameters, step) of a run, for use without training.

    On the mesh of its config, or on another. merge: a program without the run's adapter, and the
    parameters that compute the same.
    Raises `UserError` where the folder is not a run, or has no checkpoint (yet).
    """
    config = load_saved(run_dir, overrides).config
    use_compilation_cache(config)
    run = RunDir(run_dir)
    reader = CheckpointReader(run.checkpoints, report=report)
    step = reader.choose(step)
    if step is None:
        raise UserError(f"{run_dir}: no checkpoint yet; train it first (`jaxlm resume {run_dir}`)")
    program = program_of(config, mesh or config.mesh.build())
    params = bases.read_weights(config, program, reader, step, report=report)
    if merge:
        program, params = merged(config, program, params)
    return config, program, params, step


def one_device_program(run_dir: str | Path) -> tuple[RunConfig, Program]:
    """A run's config, and its program on one device, which is enough to look at parameters."""
    config = load_saved(run_dir).config
    return config, program_on_one_device(config)


def program_on_one_device(config: RunConfig) -> Program:
    """The program of a resolved config on one device, to look at parameters."""
    mesh = configs.parse(MeshConfig, {"data": 1, "num_devices": 1}).build()
    return program_of(config.replace(mesh=MeshConfig()), mesh)
