"""Where a run's weights come from: a checkpoint, another run, or the seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxlm import api
from jaxlm.checkpoint import state_io
from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core.config import UserError
from jaxlm.core.exit_codes import DONE
from jaxlm.core.tree import flatten, unflatten
from jaxlm.run import load_run, load_saved
from jaxlm.runs.folder import RunDir
from jaxlm.training import room
from jaxlm.training import session as sessions
from jaxlm.training.loading import load_trained
from jaxlm.training.restoring import find_state
from jaxlm.training.session import Session
from tests import tiny

pytestmark = pytest.mark.usefixtures("shared_programs")

QUIET = ("eval.at_end=false", "eval.every_steps=null", "sample.prompts=[]")
SENTIMENT = """
data:
  type: examples
  source: {{type: csv, files: {folder}/reviews.csv, text_column: text, label_column: label}}
  validation_fraction: 0.2
  seq_len: 16
objective: {{type: classification}}
optimizer: {{type: adamw}}
train: {{steps: 2, batch_size: 8}}
"""


@pytest.fixture(scope="module", params=tiny.MODELS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps that keeps an average of its weights, with two checkpoints."""
    run = tmp_path_factory.mktemp("source") / request.param
    settings = ("train.steps=4", "optimizer.ema_decay=0.5", "checkpoint.every_steps=2")
    mesh = "mesh={data: 2, fsdp: 2, tensor: 2}"
    outcome = api.fit(tiny.load(request.param, *QUIET, *settings, mesh, f"run_dir={run}"))
    assert outcome.code == DONE, outcome.message
    return run


def stored(run: Path, step: int, part: str) -> dict[str, np.ndarray]:
    """A part of a checkpoint, read without the session."""
    reader = CheckpointReader(RunDir(run).checkpoints)
    arrays = reader.read_metadata(step).arrays
    names = [path for path in arrays if path.startswith(f"{part}/")]
    tree: dict[str, Any] = {}
    for path in names:
        node = tree
        *parents, last = path.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        info = arrays[path]
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        node[last] = jax.ShapeDtypeStruct(info.shape, info.dtype, sharding=sharding)
    found = flatten(reader.restore_partial(step, tree)[part])
    return {path: np.asarray(x) for path, x in found.items()}


def second_stage(folder: Path, source: Path, *overrides: str) -> Session:
    rows = [f"{word} {i},{label}" for i in range(30) for word, label in (("good", 1), ("bad", 0))]
    (folder / "reviews.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    config = folder / "sentiment.yaml"
    config.write_text(SENTIMENT.format(folder=folder))
    shared = [f"init.from={source}", f"run_dir={folder}/run", f"cache_dir={tiny.cache_dir()}"]
    if source.name == "lstm":
        shared.append("model.carry_state=false")  # examples have nothing to do with each other
    resolved = load_run(config, [*shared, "mesh={data: 1, num_devices: 1}", *overrides])
    return Session.open(resolved.config, report=lambda _: None)


def initial(session: Session) -> dict[str, np.ndarray]:
    with jax.set_mesh(session.program.mesh):
        reader = CheckpointReader(RunDir(session.config.run_dir).checkpoints)
        state, step = find_state(session, reader)
    assert step == 0 and int(state["step"]) == 0
    return {path: np.asarray(x) for path, x in flatten(state["params"]).items()}


@pytest.mark.parametrize(
    ("overrides", "step", "part"),
    [
        ((), 4, "ema"),  # the average where there is one
        (("init.step=2", "init.use_ema=false"), 2, "params"),
        pytest.param(("init.use_ema=false",), 4, "params", marks=pytest.mark.slow),
        pytest.param(("init.step=2",), 2, "ema", marks=pytest.mark.slow),
    ],
)
def test_a_second_stage_starts_from_the_weights_that_it_names(
    tmp_path: Path, source: Path, overrides: tuple[str, ...], step: int, part: str
) -> None:
    """Another mesh, objective and head: the model is the source's, the head the seed's."""
    session = second_stage(tmp_path, source, *overrides)
    found, want = initial(session), stored(source, step, part)
    heads = {"task_head/kernel", "task_head/bias"}
    assert found.keys() == want.keys() | heads
    for path, value in want.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
    fresh = flatten(session.learner.create()["params"])
    for path in heads:
        np.testing.assert_array_equal(found[path], np.asarray(fresh[path]), err_msg=path)
    # the four choices above are four different sets of weights
    every = {(s, p): stored(source, s, p) for s in (2, 4) for p in ("params", "ema")}
    others = [x for which, x in every.items() if which != (step, part)]
    assert all(any((o[path] != want[path]).any() for path in want) for o in others)


def test_a_classifier_of_an_older_version_is_resumed_and_is_a_start(
    tmp_path: Path, source: Path
) -> None:
    """Its checkpoint has the model below `backbone`, the head at the top, and both moments so."""
    session = second_stage(tmp_path, source, "optimizer.ema_decay=0.5")
    state = session.learner.create()
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    flat = {jax.tree_util.keystr(k, simple=True, separator="/"): x for k, x in leaves}
    trees = [path.removesuffix("/task_head/bias") for path in flat if "/task_head/bias" in path]
    assert {"params", "ema"} < {*trees} and len(trees) == 4  # and two moments
    old = {}
    for path, x in flat.items():
        tree = next((t for t in trees if path.startswith(f"{t}/")), None)
        rest = path if tree is None else path.removeprefix(f"{tree}/")
        head = rest.startswith("task_head/")
        new = rest.removeprefix("task_head/") if head else f"backbone/{rest}"
        old[path if tree is None else f"{tree}/{new}"] = x
    assert "params/backbone/embed/table" in old and "params/kernel" in old
    metadata, finish = state_io.start_writing(tmp_path, 0, unflatten(old))
    finish()
    (tmp_path / state_io.METADATA).write_bytes(metadata.to_json())
    found = state_io.read(tmp_path, session.learner.abstract_state(), whole=True)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_what_a_run_is_used_with_is_its_average(source: Path) -> None:
    """`generate` and `eval` take the averaged weights, as the run's own evaluation did."""
    *_, params, step = load_trained(str(source), overrides=("mesh={data: 8, fsdp: 1, tensor: 1}",))
    assert step == 4
    for path, value in stored(source, 4, "ema").items():
        np.testing.assert_array_equal(np.asarray(flatten(params)[path]), value)


def test_a_run_saved_on_one_mesh_continues_with_every_bit_on_another(source: Path) -> None:
    saved = load_saved(source, ("mesh={data: 1, fsdp: 8, tensor: 1}",)).config
    session = Session.open(saved, report=lambda _: None)
    with jax.set_mesh(session.program.mesh):
        state, step = find_state(session, CheckpointReader(RunDir(source).checkpoints))
    assert step == 4
    found = flatten(state["params"])
    assert {len(x.sharding.device_set) for x in found.values()} == {8}
    for path, value in stored(source, 4, "params").items():
        np.testing.assert_array_equal(np.asarray(found[path]), value)
    final = json.loads((source / "result.json").read_text())["final"]
    assert param_sha256(state["params"]) == final["param_sha256"]


def test_another_tokenizer_than_the_sources_is_an_error(tmp_path: Path, source: Path) -> None:
    other = ("tokenizer={type: characters}", "model.vocab_size=null")
    session = second_stage(tmp_path, source, *other)
    with pytest.raises(UserError, match="tokenizer: is not the one that .* was trained with"):
        initial(session)


def test_weights_that_do_not_fit_are_listed(tmp_path: Path, source: Path) -> None:
    name = "ffn/down/kernel" if "transformer" in source.name else "cell/recurrent/kernel"
    sizes = {"transformer": "model.ffn.intermediate_size=64", "lstm": "model.hidden_size=64"}
    size = sizes[source.name]
    with pytest.raises(UserError, match=f"different: .*{name}"):
        initial(second_stage(tmp_path, source, size))


def test_compiled_programs_are_kept_on_disk_unless_a_place_is_set(tmp_path):
    config = tiny.load("transformer", f"cache_dir={tmp_path}").config
    before = jax.config.jax_compilation_cache_dir
    assert jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        Session.open(config, report=lambda _: None)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "xla")
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
        Session.open(config, report=lambda _: None)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("epochs", [0.5, 1, 2])
def test_epochs_leave_no_row_unseen(epochs: float) -> None:
    """The least number of batches that holds all rows, where the last one is a part."""
    loaded = tiny.load("transformer", "train.steps=null", f"train.epochs={epochs}")
    for batch_size in (7, 8, 9, 10, 11):
        train = loaded.config.train.replace(batch_size=batch_size)
        config, data = tiny.prepared(loaded.config.replace(train=train))
        rows = epochs * data.rows("train", batch_size=batch_size, seed=0).rows_per_epoch
        assert config.train.steps is not None
        assert (config.train.steps - 1) * batch_size < rows <= config.train.steps * batch_size


MISFITS = [
    # without data, so before anything is prepared
    ({"optimizer": {"schedule": {"type": "wsd", "warmup": 0.6, "decay": 0.6}}}, "decay: 0.6", 0),
    ({"model": {"position": {"type": "learned", "max_seq_len": 4}}}, "data.seq_len: rows of", 0),
    ({"model": {"embed_positions": 1}}, "model.embed_positions: unknown key", 0),
    # once the rows are counted
    ({"optimizer": {"schedule": {"warmup": 10**6}}}, "optimizer.schedule.warmup: 1000000 steps", 1),
    (
        {"optimizer": {"schedule": {"type": "wsd", "warmup": 0, "decay": 10**6}}},
        "optimizer.schedule.decay: 1000000 steps are more than the run's",
        1,
    ),
]


@pytest.mark.parametrize(("values", "says", "prepared"), MISFITS)
def test_what_does_not_fit_is_found_as_soon_as_it_can_be(
    tmp_path, monkeypatch, values, says, prepared
):
    """With the file and the line, for a run whose steps follow from its epochs."""
    calls = []
    prepare = sessions.prepare_data

    def counting(config, report):
        calls.append(config)
        return prepare(config, report)

    monkeypatch.setattr(sessions, "prepare_data", counting)
    monkeypatch.setattr(sessions, "learner_of", lambda *_: pytest.fail("the program is built"))
    path = tmp_path / "run.yaml"
    smoke = Path(__file__).parents[2] / "configs/smoke/transformer.yaml"
    path.write_text(
        f"include: {smoke}\ntrain: {{steps: null, epochs: 2}}\n"
        + "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
    )
    with pytest.raises(UserError) as error:
        loaded = load_run(path, [f"run_dir={tmp_path}/run", f"cache_dir={tmp_path}"])
        Session.open(loaded.config, report=lambda _: None, marks=loaded.marks)
    assert says in str(error.value) and len(calls) == prepared
    if "seq_len" not in says:
        assert str(error.value).startswith(f"{path}:3: ")
    if prepared:
        assert "(train.epochs 2)" in str(error.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data.seq_len=100000000"], "train.batch_size: 8 rows of 100,000,000 tokens take"),
        (["train.batch_size=1000000000"], "train.batch_size: 1,000,000,000 rows of 32 tokens take"),
        (["eval.batch_size=1000000000"], "eval.batch_size: 1,000,000,000 rows of 32 tokens take"),
        (
            ["train.batch_size=1000000", "train.prefetch=100"],
            "100 batches made ahead among them, but this host has",
        ),
    ],
)
def test_a_batch_that_no_memory_holds_is_refused_before_anything_is_made(
    tmp_path, monkeypatch, words, says
):
    monkeypatch.setattr(sessions, "prepare_data", lambda *_: pytest.fail("data is prepared"))
    monkeypatch.setattr(room, "host_memory", lambda: 16 * 2**30)
    config = tiny.load(
        "transformer", "data.seq_len=32", "train.batch_size=8", f"run_dir={tmp_path}", *words
    ).config
    with pytest.raises(UserError) as error:
        Session.open(config, report=lambda _: None)
    assert says in str(error.value) and "; lower " in str(error.value)


def test_a_run_of_epochs_has_the_vocabulary_of_its_tokenizer() -> None:
    settings = ("train.steps=null", "train.epochs=1", "model.vocab_size=null")
    config, data = tiny.prepared(tiny.load("transformer", *settings).config)
    assert config.model.vocab_size == data.tokenizer.vocab_size == 259
    assert config.train.steps and config.train.epochs is None
