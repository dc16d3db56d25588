"""Every YAML file under configs/ is parsed, built and its step traced at its full size (shapes
alone); those for one machine run for two steps in a size of seconds. A file that is not a whole run
is part of one.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import re
import string
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxlm.api.ladder_config import load_ladder, tasks_of
from jaxlm.cli import main
from jaxlm.core.config import Config, UserError, diff, load, read_yaml, to_yaml, type_name
from jaxlm.core.types import TokenizerConfig
from jaxlm.data.records import RecordData
from jaxlm.data.sources.base import Source
from jaxlm.data.sources.jsonl import JsonLines
from jaxlm.data.sources.synthetic import Synthetic
from jaxlm.data.store.prepared import DataConfig
from jaxlm.data.text import TextData
from jaxlm.data.tokenizers.base import Bytes, Saved
from jaxlm.objectives.graded import Graded
from jaxlm.run import RunConfig, load_run
from jaxlm.tasks.base import Task
from jaxlm.tasks.fill_mask import FillMask
from tests.data.formats_cases import CASES
from tools.make_arithmetic_data import split

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
RUNS = [path for path in FILES if "objective" in read_yaml(path).values]
LADDERS = [path for path in FILES if path.parent.name == "ladder"]
FRAGMENTS = [path for path in FILES if path not in (*RUNS, *LADDERS)]

# Fields by name, and the size they are cut to where they are larger.
SIZES = {
    "hidden_size": 32,
    "embedding_size": 32,
    "intermediate_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 16,
    "seq_len": 16,
    "max_seq_len": 64,
    "batch_size": 4,
    "vocab_size": 300,
    "min_count": 1,
    "num_experts": 32,
    "max_source": 32,
    "max_target": 16,
    "doc_stride": 8,
    "group_size": 2,
    "warmup": 1,
    "decay": 1,
}


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS).with_suffix(""))


def source_of(path: Path) -> Path | None:
    """The config whose run `path` starts from, or learns from: its first comment says
    init.from=runs/NAME or objective.teacher.from=runs/NAME. Another one's comment may say that it
    makes that run (run_dir=runs/NAME). A run of BERT-large takes the place of a folder in Hugging
    Face's format.
    """
    found = re.search(r"(?:init|teacher)\.from=(?:runs/(\w+)|\S+/)", header(path))
    if found is None:
        return None
    if found[1] is None:
        return CONFIGS / "pretrain" / "bert_large.yaml"
    (made_by,) = (other for other in RUNS if found[1] in runs_of(other))
    return made_by


def runs_of(path: Path) -> set[str]:
    """The names of the runs that a config's comment says how to make."""
    return {path.stem, *re.findall(r"run_dir=runs/(\w+)", header(path))}


def header(path: Path) -> str:
    """The comment that a file begins with."""
    lines = path.read_text().splitlines()
    return "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))


def overrides_of(path: Path) -> list[str]:
    source = source_of(path)
    if source is None or "init.from=" not in header(path):
        return []
    return [f"init.from=runs/{source.stem}"]


@cache
def full(path: Path) -> RunConfig:
    """The config as it is shipped; the folder of its source run must lie in runs/."""
    return load_run(path, overrides_of(path)).config


def pretend_run(path: Path, config: RunConfig) -> None:
    """What `init.from` reads of a run before anything is built."""
    for name in runs_of(path):
        folder = Path("runs", name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(to_yaml(config))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run directories are relative to the working directory."""
    monkeypatch.chdir(tmp_path)


# ------------------------------------------------------------------------------------- the files


def test_there_are_some():
    assert len(RUNS) >= 3


@pytest.mark.parametrize("path", FRAGMENTS, ids=name_of)
def test_a_part_is_included_by_a_whole_run(path):
    used = {
        Path(str(mark).rpartition(":")[0]).resolve()
        for run in RUNS
        for mark in read_yaml(run).marks.values()
    }
    assert path.resolve() in used, f"no config includes {path}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_begins_with_what_it_is(path):
    assert header(path), "the first line says what the config is for"
    for command in re.findall(r"jaxlm (?:train|finetune) (configs/\S+)", header(path)):
        assert command == str(path.relative_to(CONFIGS.parent))


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_survives_being_written_and_read_again(path):
    pretend_sources(path)
    Path("again.yaml").write_text(to_yaml(full(path)))
    assert diff(full(path), load("again.yaml", RunConfig).config) == []


@pytest.mark.parametrize("name", ["squad 1", "squad 2", "cmrc", "conll", "conll-u", "brown"])
def test_a_file_of_ones_own_in_place_of_the_data(name):
    """As the first lines say, of each format that they name; a part of it is held out."""
    case = CASES[name]
    (file, text), *_ = case.files.items()
    Path(file).write_text(text, encoding="utf-8")
    path = CONFIGS / "finetune" / ("qa.yaml" if "answers" in case.columns else "tag_en.yaml")
    assert "data.source.files=FILE data.validation=null" in header(path)
    Path("start").mkdir()
    start = with_sizes(full(CONFIGS / "finetune" / "tag_en.yaml"))
    Path("start", "config.yaml").write_text(to_yaml(start))
    own = [] if path.stem == "tag_en" else ["init.from=start"]
    settings = [f"data.source.files={file}", "data.validation=null", *own]
    data: Any = load_run(path, settings).config.data
    found = [record for _, record in data.source.records(data.task.columns)]
    assert found == [{c: one[c] for c in data.task.columns} for one in case.records]
    assert data.validation is None and data.validation_fraction == 0.2


@pytest.mark.parametrize("path", LADDERS, ids=name_of)
def test_every_run_of_a_ladder_is_a_config(path):
    """Each rung at each budget, with the runs that some start from, and their schedules fit."""
    for source in re.findall(r"init\.from=(\S+?)[\],]", path.read_text()):
        made_by = "pretrain/bert_large" if "minilm" in source else Path(source).name
        Path(source).mkdir(parents=True)
        config = with_sizes(full(CONFIGS / f"{made_by}.yaml"))
        Path(source, "config.yaml").write_text(to_yaml(config))
    ladder = load_ladder(path)
    tasks = tasks_of(path, ladder, list(ladder.budgets), (), Path("runs"))
    assert {task.rung.name for task in tasks} == {rung.name for rung in ladder.rungs}
    for task in tasks:
        config = task.run.config
        config.model.validate()
        assert config.eval.every_steps is None or config.optimizer.averaging is not None
        if config.optimizer is not None:
            config.optimizer.schedule.build(100)


# --------------------------------------------------------------------------------------- full size


# They train as they are in tests/training: test_resume.py, test_saved_step.py, test_state.py.
WHOLE = {"transformer", "lstm", "bert", "t5", "glm", "moe"}


def trains_whole(path: Path) -> bool:
    return path.parent.name == "smoke" and path.stem in WHOLE


# Built at full size: decoders as llama3.1_8b is, experts as deepseek_671b's. Trained: chats as
# finetune/chat is; a start in Hugging Face's format: distributed/test_processes.py.
LIKE_OTHERS = {"llama3.1_70b", "llama3.1_405b", "qwen3_8b", "moe_1t"}
TRAINED_LIKE_OTHERS = {
    "dialogues_en",
    "dialogues_zh",
    "dialogues_en_lora",
    "dialogues_zh_lora",
    "sentiment_en_minilm",
    "sentiment_en_minilm_lora",
}


def with_slow(paths: list[Path], names: set[str]) -> list[Any]:
    return [pytest.param(p, marks=[pytest.mark.slow] * (p.stem in names)) for p in paths]


BUILT = with_slow([p for p in RUNS if not trains_whole(p)], LIKE_OTHERS)


@pytest.mark.parametrize("path", BUILT, ids=name_of)
def test_builds_at_full_size(path):
    """Model, objective, optimizer, schedule and the step of them all; nothing is allocated."""
    from jaxlm.core.tree import flatten
    from jaxlm.mesh import check_accumulation
    from jaxlm.training.build import learner_of

    pretend_sources(path)
    config = with_sizes(full(path))
    try:
        mesh = config.mesh.build()
        check_accumulation(config.train.batch_size, config.train.accumulation, mesh)
    except UserError:  # for other machines than the tests' eight devices
        mesh = load_run(path, [*overrides_of(path), *ONE_DEVICE]).config.mesh.build()
    learner = learner_of(config, mesh)
    program = learner.program
    # of a bag's head alone: a kernel and a bias; of word vectors: two tables
    least = 4 if config.model.descends and not config.model.gives_bags else 2
    assert len(flatten(program.abstract_params)) >= least
    state = learner.abstract_state()
    trained = program.trained(program.abstract_params)  # all of them, without an adapter
    assert flatten(state["params"]).keys() == flatten(trained).keys()
    rows = config.objective.transform_spec(config.data.row_spec())
    batch = {
        key: jax.ShapeDtypeStruct(*of) for key, of in rows.batch(config.train.batch_size).items()
    }
    with jax.set_mesh(learner.mesh):
        after, metrics = jax.eval_shape(learner.step, state, learner.abstract_frozen(), batch)
    assert shapes_of(after) == shapes_of(state)
    assert ("loss" in metrics) == config.objective.descends


def shapes_of(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


ONE_DEVICE = (
    "mesh.data=1",
    "mesh.fsdp=1",
    "mesh.tensor=1",
    "mesh.stage=1",
    "mesh.num_devices=1",
    "mesh.expert=1",
    "mesh.context=1",
    "mesh.dcn=data",
    "mesh.stage_repeats=1",
)


def pretend_sources(path: Path) -> None:
    source = source_of(path)
    if source is not None:
        pretend_sources(source)
        pretend_run(source, with_sizes(full(source)))


def with_sizes(config: RunConfig) -> RunConfig:
    """With what only the data tells: ids of the tokenizer, classes, steps."""
    tokenizer = config.tokenizer
    if isinstance(tokenizer, Saved):  # that of the pretended run
        tokenizer = load_run(Path(tokenizer.path).parent / "config.yaml").config.tokenizer
    ids = config.model.vocab_size or getattr(tokenizer, "vocab_size", None) or 300
    changes: dict[str, Any] = {"model": config.model.replace(vocab_size=ids)}
    if hasattr(config.objective, "classes"):
        changes["objective"] = config.objective.replace(classes=labels_of(config))
    train = config.train.replace(steps=config.train.steps or 1000, epochs=None)
    return config.replace(train=train, **changes)


# ---------------------------------------------------------------------------------------- two steps


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Iterator[Path]:
    """Where the runs are kept; two steps are sooner compiled without most optimizations."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield tmp_path_factory.mktemp("configs")
    jax.config.update("jax_disable_most_optimizations", False)


# In small it is the other one except for a rate: whole, both are built above.
IN_SMALL = {"quickstart_code": "quickstart"}
TRAINED = [
    path
    for path in RUNS
    if path.stem not in IN_SMALL
    and path.parent.name != "pretrain"  # their steps are traced above, at their size
    and not trains_whole(path)
]
RATES = r"(optimizer|data\.validation_fraction)"


@pytest.mark.parametrize(("name", "other"), IN_SMALL.items())
def test_in_small_it_is_the_same_as_another(name, other):
    found = {path.stem: load_run(path).config for path in RUNS if path.stem in (name, other)}
    changes = [str(line) for line in diff(in_small(found[name]), in_small(found[other]))]
    assert [line for line in changes if not re.match(RATES, line)] == []


@pytest.mark.parametrize("path", with_slow(TRAINED, TRAINED_LIKE_OTHERS), ids=name_of)
def test_runs_for_two_steps(path, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("JAXLM_CACHE", str(workplace / "cache"))
    run = train_small(path)
    capsys.readouterr()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    objective = load_run(path, overrides_of(path)).config.objective
    shown = "train/reward" if isinstance(objective, Graded) else "train/loss"
    found = [line[shown] for line in lines if shown in line]
    assert len(found) == 2 * objective.descends
    assert all(0 < x < 20 or (shown == "train/reward" and x == 0) for x in found)
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["00000002"]


def train_small(path: Path) -> Path:
    """The run directory of two steps of a config in small; its source's first."""
    run = Path("runs", path.stem)
    if not (run / "result.json").exists():
        source = source_of(path)
        if source is not None:
            train_small(source)
        small = Path(f"{path.stem}.yaml")
        small.write_text(to_yaml(in_small(load_run(path, overrides_of(path)).config)))
        assert main(["train", str(small), f"run_dir={run}"]) == 0
    return run


def in_small(config: RunConfig) -> RunConfig:
    """Sizes cut, texts made up, two steps, and nothing that costs time but the steps."""
    small = shrink(config, labels_of(config))
    return small.replace(
        run_dir=None,
        mesh=type(config.mesh)(num_devices=1),
        train=small.train.replace(steps=2, epochs=None, accumulation=1, data_workers=0),
        eval=type(config.eval)(at_end=False),
        evaluators={
            name: each.replace(at_end=False, at_start=False)
            for name, each in small.evaluators.items()
        },
        sample=type(config.sample)(),
        checkpoint=type(config.checkpoint)(),
        logging=type(config.logging)(every_steps=1, tensorboard=False),
    )


def labels_of(config: RunConfig) -> tuple[str, ...]:
    if not hasattr(config.objective, "classes"):
        return ()
    return config.objective.classes or ("negative", "positive")


def shrink(value: Any, labels: tuple[str, ...]) -> Any:
    """The same tree of configs with small numbers, and text that is made up instead of fetched."""
    if isinstance(value, Source):
        return Synthetic(num_documents=24, words_per_document=12, labels=labels)
    if (
        isinstance(value, TokenizerConfig)
        and not Path(getattr(value, "path", None) or ".").exists()
    ):
        return Bytes()
    if isinstance(value, RecordData) and (made := MADE.get(type_name(type(value.task)) or "")):
        held_out = value.validation and written(value.task, [made(n) for n in range(24, 32)])
        return value.replace(
            source=written(value.task, [made(n) for n in range(24)]),
            validation=held_out,
            task=with_mask(shrink(value.task, labels)),
            seq_len=64,
        )
    if isinstance(value, DataConfig) and hasattr(value, "path"):
        text = TextData(source=Synthetic(), seq_len=value.seq_len, order=value.order)
        return shrink(text, labels)
    if isinstance(value, Config):
        fields = {spec.name: getattr(value, spec.name) for spec in dataclasses.fields(value)}
        return dataclasses.replace(
            value, **{name: smaller(name, item, labels) for name, item in fields.items()}
        )
    if isinstance(value, tuple):
        return tuple(shrink(item, labels) for item in value)
    if isinstance(value, dict):
        return {key: shrink(item, labels) for key, item in value.items()}
    return value


def with_mask(task: Task) -> Task:
    """With the id that masks get where a tokenizer has none: the vocabulary's last."""
    return task.replace(mask=SIZES["vocab_size"] - 1) if isinstance(task, FillMask) else task


def word(n: int) -> str:
    """Letters enough for a vocabulary of pieces."""
    return "".join(random.Random(n).choices(string.ascii_lowercase, k=8))


def question(n: int) -> dict[str, Any]:
    answers = {"text": [word(n)], "answer_start": [9]}
    context = f"It reads {word(n)}."
    return {"id": str(n), "context": context, "question": "Which?", "answers": answers}


def dialogue(n: int) -> dict[str, Any]:
    turns = {"user": f"a {n}", "assistant": "abc"}
    return {"messages": [{"role": role, "content": text} for role, text in turns.items()]}


# The record number n of a task whose records are not texts with a label.
MADE = {
    "chat": dialogue,
    "tagging": lambda n: {"tokens": [word(n), str(n)], "tags": ["NN", "CD"]},
    "question_answering": question,
    "translation": lambda n: {"source": word(n), "target": word(-n)},
    "summarisation": lambda n: {"source": f"It reads {word(n)}.", "target": word(n)},
    "regression": lambda n: {"text": word(n), "label": (n % 8 - 4) / 8},
    "multi_label": lambda n: {"text": word(n), "labels": ["a", "b"][: n % 3]},
    "pair": lambda n: {"question": word(n), "passage": word(n % 5), "label": "ab"[n % 2]},
    "fill_mask": lambda n: {"text": f"{word(n)} [MASK]", "answer": word(n)[0]},
    "prompt_completion": lambda n: {"prompt": f"{n}+1=", "completion": f"{n + 1}"},
    "preference": lambda n: {"prompt": f"{n}+1=", "chosen": f"{n + 1}", "rejected": f"{n}"},
}


def written(task: Task, records: list[dict[str, Any]]) -> Source:
    """Records as JSON lines in a file of the working folder."""
    path = Path(f"{type_name(type(task))}_{len(records)}.jsonl").absolute()
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return JsonLines(files=(str(path),))


def smaller(name: str, value: Any, labels: tuple[str, ...]) -> Any:
    if name in SIZES and isinstance(value, int):
        return min(value, SIZES[name])
    if name == "layers":  # numbers of some: the first alone, of those that are left
        return value[:1]
    return shrink(value, labels)


def test_sums_are_in_one_split_of_every_size() -> None:
    """A run on sums up to 19 is the start, or the teacher, of one on sums up to 49."""
    small, large = split(19, 0.1), split(49, 0.1)
    for name in ("train", "validation"):
        assert set(small[name]) == {sum_ for sum_ in large[name] if max(sum_) <= 19}
    sizes = {name: len(problems) for name, problems in large.items()}
    assert sum(sizes.values()) == 2500 and 200 < sizes["validation"] < 300
