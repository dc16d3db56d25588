"""Bad input gets one line that says what, where and how to fix it, and nothing is lost by it.

Every case goes through the command line, in this process.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxlm.cli import main
from jaxlm.core.config import UserError
from jaxlm.run import load_saved
from jaxlm.runs.folder import RunDir
from jaxlm.training.changes import check_same_run

ROOT = Path(__file__).parents[2]
TRANSFORMER = str(ROOT / "configs/smoke/transformer.yaml")
LSTM = str(ROOT / "configs/smoke/lstm.yaml")
ONE_DEVICE = "mesh.num_devices=1"

# an override with another type replaces the part whole
LABELLED = [
    "data={type: examples, source: {type: synthetic, num_documents: 40, words_per_document: 6,"
    " labels: ['no', 'yes']}, seq_len: 32}"
]
CHARACTERS = "tokenizer={type: characters}"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(cache))


@pytest.fixture
def fails(capsys, tmp_path) -> Callable[..., str]:
    """Runs a command that must fail as a user's mistake; returns what it says on stderr. A word
    that is looked for does not count in the name of the test's folder.
    """

    def run(*words: str, says: tuple[str, ...] = (), more_lines: bool = False) -> str:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # the command line itself is wrong
            code = stop.code
        error = capsys.readouterr().err
        assert code == 2, error
        first, *others = error.splitlines()
        assert first.startswith("error: ") and (more_lines or not others), error
        said = error.replace(tmp_path.name, "")
        for text in says:
            assert text.replace(tmp_path.name, "") in said, error
        return error

    return run


@pytest.fixture
def train_fails(fails, tmp_path) -> Callable[..., str]:
    """As `fails`, for `train`: the folder of the run must be free for the corrected command."""

    def run(config: str | Path, *words: str, says: tuple[str, ...] = ()) -> str:
        folder = tmp_path / "run"
        given = [word for word in words if word.startswith("run_dir=")]
        error = fails(
            "train", config, *words, *(() if given else (f"run_dir={folder}",)), says=says
        )
        left = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        assert left <= {"run.lock", "log.txt", "checkpoints"}, left
        assert not list(folder.glob("checkpoints/*"))
        return error

    return run


def test_the_config_that_the_cases_start_from_is_good(tmp_path, capsys):
    code = main(["data", "prepare", TRANSFORMER])
    assert code == 0, capsys.readouterr().err


# --------------------------------------------------------------------------------------- the config


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train.stpes=3"], ["command line: train.stpes: unknown key", "did you mean steps"]),
        (["trian.steps=3"], ["trian: unknown key", "did you mean train"]),
        (["train.num_train_epochs=3"], ["train.num_train_epochs: unknown key; jaxlm's key is tr"]),
        (["lora_r=8"], ["lora_r: unknown key; jaxlm's key is adapter.rank"]),
        (["train.steps=many"], ["command line: train.steps", "whole number", "'many'"]),
        (["train.steps=3.5"], ["train.steps", "whole number"]),
        (["train.steps=true"], ["train.steps", "whole number"]),
        (["model.head.tied=1"], ["model.head.tied", "true or false"]),
        (["train.batch_size=0"], ["train.batch_size", "out of range", ">= 1"]),
        (["train.prefetch=-1"], ["train.prefetch", ">= 0"]),
        (["train.data_workers=-2"], ["train.data_workers", ">= 0"]),
        (["train.data_threads=0"], ["train.data_threads", ">= 1"]),
        (["model.dropout=1.5"], ["model.dropout", "out of range"]),
        (["optimizer.learning_rate=.nan"], ["optimizer.learning_rate", "nan"]),
        (["model.type=transfomer"], ["model.type", "did you mean transformer"]),
        (["model.type=rnnn"], ["model.type: unknown type 'rnnn'", "rnn"]),
        (["model=transformer"], ["model: expected a mapping"]),
        (["model.attention.num_heads=5"], ["command line: model", "num_heads"]),
        (["model.ffn.activation=swish"], ["model.ffn.activation", "choose one of", "swiglu"]),
        (["train.epochs=1"], ["train: steps, epochs: both are set; ", "such as train.epochs=null"]),
        (["train.steps=null"], ["train: steps, epochs: both are null; "]),
        (["mesh.data=-1", "mesh.fsdp=-1"], ["mesh", "only one"]),
        (["mesh.stage_repeats=2"], ["stage_repeats: there is one stage"]),
        (["mesh.data=0"], ["mesh", "0 devices"]),
        (["train.steps"], ["'train.steps': write it as key.sub=value"]),
        (["train.steps=[1"], ["not YAML"]),
        (["data.sources={a: {type: synthetic}}"], ["data", "source or sources"]),
        (["train.steps=-3"], ["command line: train: steps: -3 is out of range; set it >= 1"]),
        (["train.steps=1000000000000000000000000000000"], ["train.steps", "< 2147483648"]),
        (["model.hidden_size=1000000000000"], ["model.hidden_size", "<= 1048576"]),
        (["model.num_layers=1000000000"], ["model.num_layers", "<= 2000"]),
        (["model.hidden_size=131072", "model.num_layers=2000"], ["parameters take", "GB in all"]),
        (["optimizer.schedule.warmup=-1"], ["optimizer.schedule.warmup", ">= 0"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and "=" in value[0] else None,
)
def test_wrong_settings(train_fails, words, says):
    train_fails(TRANSFORMER, *words, says=tuple(says))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {stpes: 3}", ["bad.yaml:2: train.stpes: unknown key", "did you mean steps"]),
        ("train:\n  batch_size: 8\n  steps: 1e3.5", ["bad.yaml:4: train.steps: expected"]),
        ("seed: .nan", ["bad.yaml:2: seed"]),
        ("seed: 1\nseed: 2", ["bad.yaml:3: seed is set twice"]),
        ("seed: [1", ["bad.yaml:", "fix the YAML"]),
        ("include: nowhere.yaml", ["bad.yaml:", "nowhere.yaml", "no such config file"]),
        ("model: {type: lstm}", ["bad.yaml:2: model.type: unknown type 'lstm'"]),
    ],
)
def test_wrong_files(train_fails, tmp_path, text, says):
    path = tmp_path / "bad.yaml"
    include = "" if "include" in text else f"include: {TRANSFORMER}\n"
    path.write_text(include + text)
    train_fails(path, says=tuple(says))


def test_no_such_config(fails, tmp_path):
    (tmp_path / "quickstart.yaml").write_text("")
    says = ("quickstar.yaml", "no such config file", "did you mean", "quickstart.yaml")
    fails("train", tmp_path / "quickstar.yaml", says=says)
    fails("train", tmp_path / "far" / "away.yaml", says=("no such config file", "check the path"))


def test_a_config_that_is_not_yaml_text(fails, tmp_path):
    fails("train", tmp_path, says=("is a directory", "name a YAML file"))
    binary = tmp_path / "model.yaml"
    binary.write_bytes(b"\x80\x00\xff")
    fails("train", binary, says=(str(binary), "not UTF-8"))
    table = tmp_path / "list.yaml"
    table.write_text("- 1\n- 2")
    fails("train", table, says=(str(table), "mapping"))


def test_an_empty_config_says_what_is_required(fails, tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("")
    fails("train", path, says=("is required",))


@pytest.mark.parametrize("name", ["sentiment_en", "sentiment_en_lstm"])
def test_a_second_stage_without_its_source_asks_for_it(fails, name):
    path = Path(__file__).parents[2] / "configs" / "finetune" / f"{name}.yaml"
    fails("finetune", path, says=(str(path), "no model", "add init.from=RUN_DIR"))


# ----------------------------------------------------------------------------------------- the mesh


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["train.batch_size=12"],
            ["train.batch_size of size 12", "8 devices", "use a size of 8 or 16, or 4 devices"],
        ),
        (["train.accumulation=2"], ["train.batch_size / train.accumulation", "8 devices"]),
        (["train.accumulation=3"], ["train.batch_size: 8 rows", "3 micro-batches", "multiple"]),
        (["eval.batch_size=3"], ["eval.batch_size", "8 devices"]),
        (["mesh.num_devices=1000"], ["mesh.num_devices: 1000 asked for but 8 exist"]),
        (["mesh.data=16"], ["mesh: data 16 takes 16 devices but 8 exist"]),
        (["mesh.fsdp=3"], ["mesh: 8 devices cannot be split", "divide 8"]),
        (
            ["mesh.tensor=4"],
            ["parameter embed/table", "vocab", "259", "4 devices of mesh axis tensor"],
        ),
        (
            ["mesh.tensor=4", "model.vocab_size=260"],
            [
                "attention/key/kernel",
                "kv_heads",
                "of size 2",
                "use a size of 4, or 2 devices there",
            ],
        ),
    ],
    ids=lambda value: value[0] if "=" in value[0] else "",
)
def test_a_mesh_that_does_not_fit(train_fails, words, says):
    train_fails(TRANSFORMER, *words, says=tuple(says))


# ---------------------------------------------------------------------------- parts that do not fit


@pytest.mark.parametrize(
    ("config", "words", "says"),
    [
        (TRANSFORMER, ["model.vocab_size=10"], ["model.vocab_size: 10", "259"]),
        (
            TRANSFORMER,
            ["data.seq_len=1000000"],
            ["seq_len", "longer than the whole training split"],
        ),
        (LSTM, ["data.order=shuffle"], ["model.carry_state", "data.order: stream"]),
        (
            TRANSFORMER,
            ["model.position={type: learned, max_seq_len: 16}"],
            ["data.seq_len", "32", "at most 16"],
        ),
        (
            TRANSFORMER,
            ["model.position={type: learned, max_seq_len: 32}", "sample.max_tokens=100"],
            ["sample.prompt", "32 positions"],
        ),
        (
            TRANSFORMER,
            ["objective.type=classification"],
            ["objective: classification needs labels", "data.type text gives tokens"],
        ),
        (
            TRANSFORMER,
            LABELLED,
            ["objective: causal_lm does not use labels", "data.type records gives"],
        ),
        (
            TRANSFORMER,
            [*LABELLED, "objective.type=classification"],
            ["sample.prompts", "classification writes no text"],
        ),
        (
            TRANSFORMER,
            [
                *LABELLED,
                "objective={type: classification, classes: ['yes', 'no']}",
                "sample.prompts=[]",
            ],
            ["objective.classes", "same order"],
        ),
        (TRANSFORMER, ["optimizer.schedule.warmup=100"], ["warmup", "12"]),
        (
            TRANSFORMER,
            ["optimizer.weight_decay=[{pattern: attention, value: 0.1}]"],
            ["optimizer.weight_decay", "embed/table"],
        ),
        (TRANSFORMER, ["data.source.num_documents=1"], ["one document", "validation_fraction"]),
    ],
    ids=[
        "vocabulary",
        "rows longer than the text",
        "carried state",
        "positions",
        "positions of samples",
        "no labels",
        "labels for a language model",
        "samples of a classifier",
        "classes",
        "warmup longer than the run",
        "group that covers nothing",
        "one document to split",
    ],
)
def test_parts_that_do_not_fit(train_fails, config, words, says):
    train_fails(config, ONE_DEVICE, *words, says=tuple(says))


# ----------------------------------------------------------------------------------------- the data


def text_source(path: Path) -> list[str]:
    return [ONE_DEVICE, f"data.source={{type: text, files: {path}}}", "data.seq_len=8"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ["no documents", "blank"]),
        (b" \n\n", ["no documents", "blank"]),
        (b"good text\n" * 3 + b"caf\xe9 and more", ["play.txt", "33", "UTF-8"]),
        (b"\x7fELF\x00\x00\x01binary\x00" * 20, ["play.txt", "binary"]),
    ],
    ids=["empty", "blank", "latin-1", "binary"],
)
def test_texts_that_are_refused(train_fails, tmp_path, content, says):
    path = tmp_path / "play.txt"
    path.write_bytes(content)
    error = train_fails(TRANSFORMER, *text_source(path), says=tuple(says))
    assert str(tmp_path) in error
    # fixed, the same command works: nothing of the failed preparation is in its way
    path.write_text("To be, or not to be, that is the question. " * 20)
    whole = ("data.validation_fraction=0",)
    assert main(["data", "prepare", TRANSFORMER, *text_source(path), *whole]) == 0


def test_missing_texts(train_fails, tmp_path):
    train_fails(TRANSFORMER, *text_source(tmp_path / "nothing.txt"), says=("nothing.txt",))
    train_fails(TRANSFORMER, *text_source(tmp_path / "*.txt"), says=("*.txt",))


def table(path: Path, **columns: str) -> list[str]:
    named = ", ".join(f"{name}: {value}" for name, value in columns.items())
    data = f"data={{type: examples, source: {{type: csv, files: {path}, {named}}}}}"
    return [ONE_DEVICE, "objective.type=classification", "sample.prompts=[]", data]


@pytest.mark.parametrize(
    ("columns", "rows", "says"),
    [
        ({"text_column": "txt", "label_column": "label"}, "good,yes\nbad,no", ["txt", "text"]),
        ({"text_column": "text", "label_column": "lable"}, "good,yes\nbad,no", ["lable", "label"]),
        ({"text_column": "text", "columns": "[text, stars]"}, "a,b", ["no column 'label'", "text"]),
        ({"text_column": "text", "label_column": "label"}, "good,yes\nbad,yes", ["one label only"]),
    ],
)
def test_tables_without_what_is_asked_for(train_fails, tmp_path, columns, rows, says):
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\n" + rows + "\n")
    train_fails(TRANSFORMER, *table(path, **columns), says=tuple(says))


def tokens(path: Path, **options: object) -> list[str]:
    named = ", ".join(f"{name}: {value}" for name, value in options.items())
    return [ONE_DEVICE, f"data={{type: tokens, path: {path}, {named}}}"]


def test_token_files_that_do_not_fit(train_fails, tmp_path):
    path = tmp_path / "train.bin"
    path.write_bytes((np.arange(4000) % 5000).astype("<u2").tobytes())
    train_fails(TRANSFORMER, *tokens(path, format="nanogpt"), says=(str(path), "3999", "259"))
    path.write_bytes(b"123")
    train_fails(TRANSFORMER, *tokens(path, format="nanogpt"), says=(str(path),))
    missing = tmp_path / "nowhere"
    for kind in ("nanogpt", "megatron", "jaxlm"):
        train_fails(TRANSFORMER, *tokens(missing, format=kind), says=("nowhere",))


def prepared_store(cache: Path, capsys, salt: int) -> Path:
    """A store of its own in the cache: that of another seed's synthetic text."""
    before = set(cache.glob("stores/*"))
    assert main(["data", "prepare", TRANSFORMER, f"data.source.seed={salt}"]) == 0
    capsys.readouterr()
    (store,) = (p for p in set(cache.glob("stores/*")) - before if p.is_dir())
    return store


def test_a_corrupt_token_store(train_fails, cache, capsys):
    store = prepared_store(cache, capsys, 7)
    words = (ONE_DEVICE, "data.source.seed=7")
    file = store / "tokens.bin"
    good = file.read_bytes()
    file.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    train_fails(TRANSFORMER, *words, says=("tokens.bin", "SHA-256", "delete", "prepare"))
    file.write_bytes(good[:-2])
    train_fails(TRANSFORMER, *words, says=("tokens.bin", "bytes instead of"))
    file.unlink()
    train_fails(TRANSFORMER, *words, says=("tokens.bin", "is missing"))
    shutil.rmtree(store)  # the fix
    assert main(["data", "prepare", TRANSFORMER, *words]) == 0


def test_a_token_store_of_another_tokenizer(train_fails, cache, capsys):
    store = prepared_store(cache, capsys, 8)
    good = tokens(store, format="jaxlm")
    assert main(["data", "prepare", TRANSFORMER, *good]) == 0
    other = cache / "other"
    assert main(["tokenizer", "train", TRANSFORMER, "--out", f"{other}", CHARACTERS]) == 0
    capsys.readouterr()
    saved = f"tokenizer={{type: saved, path: {other}}}"
    train_fails(TRANSFORMER, *good, saved, says=(str(store), "another tokenizer"))


# -------------------------------------------------------------------------------- folders, the disk


def test_folders_that_cannot_be_written(fails, tmp_path):
    file = tmp_path / "file"
    file.write_text("no folder")
    run = f"run_dir={tmp_path / 'run'}"
    inside = file / "inside"
    assert main(["data", "prepare", str(TRANSFORMER)]) == 0  # so that an error is alone
    fails("train", TRANSFORMER, f"run_dir={inside}", says=("run_dir", str(inside), "written"))
    fails("train", TRANSFORMER, run, f"cache_dir={inside}", says=("cache_dir", "JAXLM_CACHE"))
    fails("data", "prepare", TRANSFORMER, f"cache_dir={inside}", says=("cache_dir",))
    words = ("tokenizer", "train", TRANSFORMER, "--out")
    fails(*words, file, says=("--out", "exists already"))
    fails(*words, inside, says=("--out", str(inside)))


# --------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache) -> Path:
    """A run of one step with learned positions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXLM_CACHE", str(cache))
        folder = tmp_path_factory.mktemp("runs") / "trained"
        words = ["model.position={type: learned, max_seq_len: 48}", "train.steps=1"]
        words += ["optimizer.schedule.warmup=0", "sample.prompts=[]", "eval.at_end=false"]
        words += ["model.num_layers=1", "logging.tensorboard=false", ONE_DEVICE]
        jax.config.update("jax_disable_most_optimizations", True)  # one step, sooner compiled
        assert main(["train", TRANSFORMER, f"run_dir={folder}", *words]) == 0
        jax.config.update("jax_disable_most_optimizations", False)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a run but those that a start always touches."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("run.lock", "log.txt")
    }


def same_run(trained: Path) -> list[str]:
    return ["train", str(trained / "config.yaml"), f"run_dir={trained}"]


def test_a_run_of_another_config_is_left_alone(fails, trained):
    before = contents(trained)
    words = ("seed=2", "optimizer.learning_rate=0.5")
    error = fails(*same_run(trained), *words, more_lines=True, says=("another config",))
    lines = [line.strip() for line in error.splitlines()[1:]]
    assert lines == ["seed: 1 -> 2", "optimizer.learning_rate: 0.003 -> 0.5"]
    assert contents(trained) == before


def test_a_run_that_never_saved_gives_way_to_another_config(trained, tmp_path):
    young = tmp_path / "young"
    saved = ("0*", "result.json", "identity.json")
    shutil.copytree(trained, young, ignore=shutil.ignore_patterns(*saved))
    other = load_saved(trained).config.replace(seed=2)
    check_same_run(RunDir(young), other)
    with pytest.raises(UserError, match="seed: 1 -> 2"):
        check_same_run(RunDir(trained), other)


def test_resume_with_another_model_leaves_the_run_alone(fails, trained):
    before = contents(trained)
    fails(
        "resume",
        trained,
        "train.steps=2",
        "model.hidden_size=64",
        says=("cannot go on as another run", "model.hidden_size: 32 -> 64"),
        more_lines=True,
    )
    assert contents(trained) == before


@pytest.mark.parametrize("verb", ["resume", "generate", "eval", "report", "info"])
def test_a_folder_that_is_not_a_run(fails, tmp_path, verb):
    fails(verb, tmp_path, says=(str(tmp_path), "not a run directory", "jaxlm train"))
    fails(verb, tmp_path / "nowhere", says=("nowhere", "not a run directory"))


def test_a_run_without_a_checkpoint(fails, trained, tmp_path):
    young = tmp_path / "young"
    saved = ("0*", "result.json", "identity.json")
    shutil.copytree(trained, young, ignore=shutil.ignore_patterns(*saved))
    for verb in ("generate", "eval"):
        fails(verb, young, says=(str(young), "no checkpoint yet", "train it first"))
    error = fails("finetune", TRANSFORMER, f"init.from={young}", says=("init.from", str(young)))
    assert "has no checkpoint" in error


def test_checkpoints_that_are_not_there(fails, trained):
    for verb in ("generate", "eval"):
        fails(verb, trained, "--step", "77", says=("00000077", "no checkpoint", "jaxlm info"))


def test_prompts_that_do_not_fit(fails, trained):
    says = ("prompt", "48 positions", "ask for at most")
    fails("generate", trained, "--prompt", "abc", "--max-tokens", "500", says=says)
    fails("generate", trained, "--prompt", "a" * 100, says=("prompt", "shorten the prompt"))


def test_what_a_run_cannot_do(fails, trained):
    says = ("validation", "data.validation")
    fails("eval", trained, "data.validation_fraction=0", says=says)
    words = ("objective.type=classification",)
    fails("generate", trained, *words, says=("classification", "writes no text", "eval"))


# ----------------------------------------------------------------------------------- a second stage


STAGE = (
    TRANSFORMER,
    ONE_DEVICE,
    "train.steps=1",
    "optimizer.schedule.warmup=0",
    "sample.prompts=[]",
)


def test_a_second_stage_from_nothing(fails, tmp_path):
    fails("finetune", TRANSFORMER, says=("init.from", "required", "init.from=RUN_DIR"))
    missing = tmp_path / "nowhere"
    fails("finetune", TRANSFORMER, f"init.from={missing}", says=("init.from", "nowhere"))
    fails("train", TRANSFORMER, f"init.from={missing}", says=("init.from", "nowhere"))


def test_a_second_stage_that_does_not_fit_and_then_does(fails, trained, tmp_path):
    run = f"run_dir={tmp_path / 'stage'}"
    words = (
        "finetune",
        *STAGE,
        "model.position={type: learned, max_seq_len: 48}",
        "model.num_layers=1",
        run,
    )
    # the smoke config has a model of its own: its shape must be the source's
    source = f"init.from={trained}"
    says = ("position/table", "stored float32[48, 32]", "wanted float32[64, 32]")
    fails(*words, source, "model.position.max_seq_len=64", says=says)
    good = (*words, source, "model.position.max_seq_len=48")
    other = ("tokenizer", "is not the one", "leave tokenizer out")
    fails(*good, CHARACTERS, "model.vocab_size=null", says=other)
    fails(*good, "init.step=9", says=("00000009", "no checkpoint"))
    assert main([*good, "eval.at_end=false", "logging.tensorboard=false"]) == 0


def test_a_resumed_run_stays_the_run_that_it_is(fails, trained):
    """What would make it another run is refused with a diff, and the folder is left as it was."""
    before = contents(trained)
    changes = ("seed=9", "data.seq_len=16", "optimizer.learning_rate=0.5", "train.steps=2")
    says = ("cannot go on as another run", "seed: 1 -> 9", "data.seq_len: 32 -> 16")
    error = fails("resume", trained, *changes, says=says, more_lines=True)
    assert "learning_rate" not in error  # that may change on the way
    fails("resume", trained, "optimizer.type=sgd", says=("optimizer.type",), more_lines=True)
    assert contents(trained) == before


def test_a_checkpoint_that_is_asked_for_is_checked_like_the_newest(fails, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    array = next(path for path in (run / "checkpoints").rglob("d/*") if path.stat().st_size > 1000)
    data = bytearray(array.read_bytes())
    data[len(data) // 2] ^= 1
    array.write_bytes(data)
    for words in (("eval", run), ("generate", run, "--prompt", "a")):
        fails(*words, "--step", 1, says=("damaged", array.name, "another step"))
    stage = ("finetune", *STAGE, f"run_dir={tmp_path / 'stage'}", f"init.from={run}")
    shape = ("model.position={type: learned, max_seq_len: 48}", "model.num_layers=1")
    fails(*stage, *shape, "init.step=1", says=("damaged", array.name))
