"""A run is one YAML: the config tree of a run, and how a file becomes one.

    resolved = load_run("configs/quickstart.yaml", ["train.steps=100"])
    resolved.config.optimizer.learning_rate

With `init.from` the source run's model and tokenizer are the defaults of the file, so a second
stage names only what it changes. `model.preset` names a published model, whose values the file
overrides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxlm.adapters.base import Adapter
from jaxlm.checkpoint.writer import CheckpointConfig
from jaxlm.core import config as configs
from jaxlm.core.callback import Callback
from jaxlm.core.config import REQUIRED, Config, ConfigError, Layer, Mark, Resolved, UserError, field
from jaxlm.core.config_yaml import read_yaml_text
from jaxlm.core.errors import looked_from, shown
from jaxlm.core.evaluator import Evaluator
from jaxlm.core.renames import renamed
from jaxlm.core.sampling import DRAWING, Sampling, SamplingOptions
from jaxlm.core.types import ModelConfig, TokenizerConfig
from jaxlm.data.store.prepared import DataConfig
from jaxlm.mesh import MeshConfig
from jaxlm.objectives.base import Objective
from jaxlm.optim.base import OptimizerConfig
from jaxlm.runs.folder import RunDir, is_hugging_face
from jaxlm.runs.identity import check_config, check_files, read_record
from jaxlm.runs.trackers import LoggingConfig


@dataclass(frozen=True, kw_only=True)
class RollbackConfig(Config):
    """The return to an earlier checkpoint, and the steps it skips: `jaxlm.training.rollback`."""

    after: int = field(3, "steps in a row with a non-finite loss before the run goes back", ge=1)
    before: int = field(
        1,
        "steps before them whose batches are skipped as well; checkpoints as old are kept",
        ge=1,
    )
    max: int = field(3, "how often a run goes back; then train.max_bad_steps stops it", ge=1)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """The length of a run, its batch size, and how batches are made."""

    steps: int | None = field(
        None, "optimizer steps of the whole run; null: from epochs", affects="schedule"
    )
    epochs: float | None = field(
        None, "passes over the training rows, where steps is null", gt=0, le=1e6, affects="host"
    )
    batch_size: int = field(32, "rows of one step, over all devices and micro-batches", ge=1)
    embedding_noise: float = field(
        0.0,
        "noise on embeddings of tokens, U(-1, 1) times this / sqrt(row length * width): 5 to 15 in "
        "NEFTune (arXiv:2310.05914); 0: none",
        ge=0,
    )
    accumulation: int = field(1, "micro-batches that a step's rows are taken in", ge=1)
    prefetch: int = field(8, "batches made ahead of the step", ge=0, le=10_000, affects="run")
    data_threads: int = field(1, "threads that make batches", ge=1, le=1024, affects="run")
    data_workers: int = field(
        0, "processes that make batches; 0: threads alone", ge=0, le=1024, affects="run"
    )
    max_bad_steps: int = field(
        5, "steps in a row with a non-finite loss before the run stops", ge=1, affects="loop"
    )
    rollback: RollbackConfig | None = field(
        None,
        "go back and skip batches after steps with a non-finite loss; null: never",
        affects="loop",
    )
    xla: dict[str, str] = field(
        dict,
        "options of the compiler for the step, over those for the kind of device",
        affects="host",
    )
    compiled: str | None = field(
        None,
        "a compiled step that `jaxlm plan --save` kept, for this topology; null: none",
        path=True,
        affects="run",
    )
    hang_timeout: float | None = field(
        600.0,
        "seconds without the end of a step, a batch of evaluation or 32 sampled tokens, after "
        "which the process shows its stacks and ends with exit code 70; a save may take six times "
        "as long; compilation does not count; null: never",
        gt=0,
        le=1e8,
        affects="run",
    )
    ledger: bool = field(
        False, "write the ids of every step's samples to ledger.jsonl", affects="run"
    )

    def validate(self) -> None:
        if self.steps is not None and self.steps < 0:
            raise UserError(f"steps: {self.steps} is out of range; set it >= 1")
        if self.steps is None and self.epochs is None:
            raise UserError("steps, epochs: both are null; set one of the two")
        if self.steps is not None and self.epochs is not None:
            raise UserError(
                "steps, epochs: both are set; set the one that you do not want to null, such as "
                "train.epochs=null"
            )
        if self.rollback is not None and self.rollback.after > self.max_bad_steps:
            raise UserError(
                f"rollback.after: {self.rollback.after} is never reached, the run stops after "
                f"max_bad_steps {self.max_bad_steps}; set it to at most that"
            )


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Config):
    """The evaluation of the validation split: its steps and its extent."""

    every_steps: int | None = field(None, "measure every N steps; null: at the end alone", ge=1)
    batch_size: int | None = field(None, "rows of one batch; null: that of training", ge=1)
    max_batches: int | None = field(None, "batches measured during training; null: all", ge=1)
    at_end: bool = field(True, "measure the whole split after the last step")
    at_start: bool = field(False, "measure the whole split before the first step as well")
    baseline: bool = field(True, "measure baselines without a neural network as well, at the end")


@dataclass(frozen=True, kw_only=True)
class EarlyStopConfig(Config):
    """The end of a run before its last step, where a measure no longer improves."""

    measure: str = field("eval/loss", "a key of metrics.jsonl that is measured during training")
    patience: int = field(3, "evaluations in a row without an improvement before the end", ge=1)
    min_delta: float = field(0.0, "by how much a value must improve on the best one", ge=0)
    better: Literal["lower", "higher"] | None = field(
        None, "which values are better; null: as the measure says"
    )


@dataclass(frozen=True, kw_only=True)
class ProfileConfig(Config):
    """The traced steps; the trace is in RUN/profile, for TensorBoard."""

    start: int = field(20, "steps before the first that is traced", ge=0)
    steps: int = field(5, "steps that are traced", ge=1)


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Sampling):
    """Text that the model writes while it trains, and the defaults of text that is asked of it."""

    every_steps: int | None = field(None, "write every N steps; null: at the end alone", ge=1)
    prompts: tuple[str, ...] = field((), "texts to continue; none: no samples")
    eos_ids: tuple[int, ...] = field(
        (), "ids that end a text, besides the tokenizer's eos; an import reads them"
    )

    def asked(self, options: SamplingOptions, *, draws: bool = False) -> Sampling:
        """These options over the run's own. Raises `UserError` for an unknown or wrong one.

        An option of drawing turns off the run's beams, and so does `draws`.
        """
        own, asked = configs.to_dict(self.sampling), dict(options)
        if isinstance(stop := options.get("stop"), str | tuple):
            asked["stop"] = [stop] if isinstance(stop, str) else list(stop)
        if (draws or set(asked) & set(DRAWING)) and "num_beams" not in asked:
            own["num_beams"] = 1
        if "max_tokens" in asked and "min_tokens" not in asked:
            own["min_tokens"] = 0
        return configs.parse(Sampling, own | asked)


@dataclass(frozen=True, kw_only=True)
class InitConfig(Config):
    """The source of the weights at step 0."""

    from_: str | None = field(
        None, "run directory whose weights are loaded; null: from scratch", path=True
    )
    step: int | None = field(None, "checkpoint of that run; null: the last", ge=0)
    use_ema: bool = field(True, "load the averaged weights, if that run has them")
    vectors: str | None = field(
        None,
        "file or run of word vectors, from which the embedding starts where it has a word; null: "
        "as the model draws it",
        path=True,
    )
    frozen: bool = field(False, "with vectors: the embedding is not trained")

    def validate(self) -> None:
        if self.vectors is None and self.frozen:
            raise UserError("frozen: there are no vectors to freeze; set vectors, or leave it out")
        if self.vectors is not None and self.from_ is not None:
            raise UserError(
                "vectors: from names a run that has an embedding already; leave one of the two out"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """Everything that makes a run."""

    run_dir: str | None = field(
        None,
        "where the run is kept; null: runs/ and the config file's name",
        path=True,
        affects="run",
    )
    seed: int = field(0, "seed of initialisation, dropout and data order", ge=0, lt=2**31)
    cache_dir: str | None = field(
        None,
        "where token stores and compiled programs are kept; null: that of fetched packages, the "
        "variable JAXLM_CACHE or the user's cache",
        path=True,
        affects="run",
    )
    tokenizer: TokenizerConfig | None = field(
        REQUIRED, "text to tokens; null: without a tokenizer", affects="host"
    )
    data: DataConfig | None = field(
        REQUIRED, "the training and validation data; null: without data", affects="host"
    )
    model: ModelConfig = field(REQUIRED, "the model's shape")
    objective: Objective = field(
        REQUIRED, "what is learnt, such as {type: causal_lm}: a loss and its host transform"
    )
    optimizer: OptimizerConfig | None = field(
        REQUIRED, "how gradients become updates; null: the weights are not trained"
    )
    adapter: Adapter | None = field(
        None, "which parameters are trained, and what is added for that; null: all are trained"
    )
    mesh: MeshConfig = field(MeshConfig, "how devices are arranged", affects="program")
    train: TrainConfig = field(REQUIRED, "length of the run and batch size")
    eval: EvalConfig = field(EvalConfig, "when the validation split is measured", affects="run")
    evaluators: dict[str, Evaluator] = field(
        dict, "more evaluators by name, each with its split and rhythm", affects="run"
    )
    early_stop: EarlyStopConfig | None = field(
        None,
        "end training when a measure no longer improves; null: at the last step",
        affects="loop",
    )
    sample: SampleConfig = field(SampleConfig, "text written while training", affects="run")
    checkpoint: CheckpointConfig = field(
        CheckpointConfig, "when the state is saved, and what is kept", affects="run"
    )
    logging: LoggingConfig = field(LoggingConfig, "where metrics go", affects="run")
    profile: ProfileConfig | None = field(
        None, "trace some steps with jax.profiler; null: none", affects="run"
    )
    callbacks: tuple[Callback, ...] = field(
        (), "more callbacks, called while the run trains", affects="run"
    )
    init: InitConfig = field(InitConfig, "where the weights come from", affects="host")

    def validate(self) -> None:
        if not self.objective.descends:
            if self.optimizer is not None:
                raise UserError(
                    "optimizer: the objective has no gradient, it counts; set it to null"
                )
            return
        if self.optimizer is None and self.train.steps != 0:
            raise UserError("optimizer: null trains nothing; name one, such as {type: adamw}")
        if self.optimizer is not None and self.train.steps == 0:
            raise UserError("train.steps: 0 trains nothing; set it to 1 or more")


def trajectory(config: RunConfig) -> RunConfig:
    """The config with each field that cannot change the weights at its default.

    What early stopping measures decides where the run ends, and what averaging measures decides
    where the average begins. Which ids end a text decides what a
    run learns from texts that it writes.
    """
    kept = configs.without(config, configs.ALLOWED)
    if config.objective.on_policy:
        kept = kept.replace(sample=SampleConfig(eos_ids=config.sample.eos_ids))
    averaging = None if config.optimizer is None else config.optimizer.averaging
    if config.early_stop is None and averaging is None:
        return kept
    return kept.replace(eval=config.eval, evaluators=config.evaluators)


def config_sha256(config: RunConfig) -> str:
    """SHA-256 of a run's config, without the paths of the run and its caches."""
    return configs.sha256(config.replace(run_dir=None, cache_dir=None))


def load_run(
    path: str | Path,
    overrides: Iterable[str] = (),
    run_of: Callable[[str], Path] = Path,
) -> Resolved[RunConfig]:
    """The RunConfig of a YAML file under dotted overrides. Raises `ConfigError`.

    run_of: the run of the folder that `init.from` names, such as `jaxlm.hf.opened.run_of`, which
    imports a folder in Hugging Face's format.
    """
    path = Path(path)
    top = _overridden(renamed(configs.read_yaml(path)), overrides)
    init = top.values.get("init")
    layer, given = Layer({}), None
    if isinstance(init, dict) and isinstance(init.get("from"), str):
        given = init["from"]
        source = run_of(given)
        init["from"] = str(source)
        layer = _inherited(source)
    layer.merge(_preset(top))
    layer.merge(top)
    named = "tokenizer" in layer.values or "type" in _mapping(layer.values.get("model"))
    if "objective" in layer.values and not named:
        raise UserError(
            f"{path}: names no model and no tokenizer: a second stage takes those of another run; "
            "add init.from=RUN_DIR"
        )
    if given is not None and "tokenizer" not in layer.values:
        raise UserError(
            f"init.from: {given} has no tokenizer, and {path} names none; add the model's "
            "tokenizer.json to the folder in Hugging Face's format (and import it again where it "
            "was imported), or set tokenizer"
        )
    layer.values.setdefault("run_dir", None)
    if layer.values["run_dir"] is None:
        layer.values["run_dir"] = f"runs/{path.stem}"
        layer.marks["run_dir"] = Mark("name of the config file")
    layer = renamed(layer)  # a preset, or another run, may decide what an old key meant
    return Resolved(configs.parse(RunConfig, layer.values, layer.marks), layer.marks)


def _overridden(layer: Layer, overrides: Iterable[str]) -> Layer:
    """The layer under dotted overrides, which may name a key as older versions did."""
    layer.merge(renamed(configs.read_overrides(overrides)))
    return renamed(layer)


def _mapping(value: Any) -> Mapping[str, Any]:
    """`value` where it is a mapping, else an empty one: the config's own check reports the rest."""
    return value if isinstance(value, Mapping) else {}


def _preset(top: Layer) -> Layer:
    """The values of the published model that `model.preset` names, which is taken out of `top`."""
    model = top.values.get("model")
    if not isinstance(model, dict) or "preset" not in model:
        return Layer({})
    from jaxlm.models.families import preset

    name = model.pop("preset")
    line = configs.where("model.preset", top.marks)
    top.marks.pop("model.preset", None)
    try:
        found = preset(str(name))
    except UserError as error:
        raise ConfigError(f"{line}{error}") from None
    kind, given = configs.type_name(type(found)), model.get("type")
    if given not in (None, kind):
        line = configs.where("model.type", top.marks)
        raise ConfigError(
            f"{line}model.type: {shown(given)} but preset {name} is a {kind}; remove one"
        )
    mark = Mark(f"preset {name}")
    marks = {path: mark for path, _, _ in configs.describe(found, "model")}
    return Layer({"model": configs.to_dict(found)}, marks)


def _inherited(source: Path) -> Layer:
    """The model and tokenizer of the run that weights are taken from."""
    path = source / "config.yaml"
    if is_hugging_face(source):
        raise UserError(
            f"init.from: {source} is a folder in Hugging Face's format; `jaxlm import hf {source} "
            "--out RUN_DIR` makes a run of it"
        )
    if not path.is_file() and read_record(RunDir(source))[0] is None:
        raise UserError(
            f"init.from: {source} is not a run directory (no config.yaml{looked_from(source)}); "
            "name a finished run, or a folder in Hugging Face's format"
        )
    base = own_config(source)
    if not _mapping(base.values.get("model")):
        raise UserError(f"{path}: model: is not a mapping of keys; name the folder of a run")
    mark = Mark(str(path))
    values = {
        "model": base.values["model"],
        "tokenizer": {"type": "saved", "path": str(source / "tokenizer")},
    }
    if base.values.get("tokenizer") is None:  # imported without one: the file names its own
        del values["tokenizer"]
    if eos_ids := (base.values.get("sample") or {}).get("eos_ids"):
        values["sample"] = {"eos_ids": eos_ids}
    return Layer(values, {key: mark for key in (*values, *(f"model.{k}" for k in values["model"]))})


def saved_config(run_dir: str | Path) -> Path:
    """The config file of a run directory. Raises `UserError` if it is not a run directory."""
    path = Path(run_dir) / "config.yaml"
    if not path.is_file() and read_record(RunDir(run_dir))[0] is None:
        raise UserError(
            f"{run_dir}: not a run directory (no config.yaml{looked_from(run_dir)}); "
            "`jaxlm train CONFIG` makes one"
        )
    return path


def load_saved(run_dir: str | Path, overrides: Iterable[str] = ()) -> Resolved[RunConfig]:
    """The config of a run directory, under dotted overrides; its `run_dir` is the present path."""
    layer = _overridden(own_config(run_dir), overrides)
    layer.merge(Layer({"run_dir": str(run_dir)}, {"run_dir": Mark("command line")}))
    return Resolved(configs.parse(RunConfig, layer.values, layer.marks), layer.marks)


def own_config(run_dir: str | Path) -> Layer:
    """config.yaml as the run wrote it. Raises `UserError` where that, or a file that came with
    imported weights, has changed.
    """
    path, run = saved_config(run_dir), RunDir(run_dir)
    record, _ = read_record(run)
    if record is None:
        return renamed(configs.read_yaml(path))
    check_config(run, record, tuple(configs.allowed_paths(RunConfig)))
    check_files(run, record)
    return renamed(read_yaml_text(record.config, path))
