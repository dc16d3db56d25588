"""Mistakes in a user's records and settings of a task: one line, and nothing is left of them.

Every case goes through the command line, in this process.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxlm.cli import main

SMOKE = Path(__file__).parents[2] / "configs" / "smoke"
PLAIN = [
    "mesh.num_devices=1",
    "train.steps=1",
    "optimizer.schedule.warmup=0",
    "sample.prompts=[]",
    "eval.every_steps=null",
    "eval.at_end=false",
    "logging.tensorboard=false",
    "model.num_layers=1",
]
PEFT = Path(__file__).parents[1] / "fixtures" / "peft" / "gpt2"
Fails = Callable[..., None]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run of one step on bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXLM_CACHE", str(cache))
        folder = tmp_path_factory.mktemp("runs") / "trained"
        jax.config.update("jax_disable_most_optimizations", True)  # one step, sooner compiled
        words = ["train", str(SMOKE / "transformer.yaml"), *PLAIN, f"run_dir={folder}"]
        assert main(words) == 0
        jax.config.update("jax_disable_most_optimizations", False)
    return folder


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def fails(
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Fails:
    """Runs a command that must fail as a user's mistake, in one line. The working folder is then as
    it was before; the folder of a run that has not begun has its log at most.
    """
    monkeypatch.setenv("JAXLM_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)

    def run(*words: str, says: tuple[str, ...], begun: bool = False) -> None:
        before = files_of(tmp_path)
        capsys.readouterr()
        assert main(list(words)) == 2
        error = capsys.readouterr().err
        (line,) = error.splitlines()
        assert line.startswith("error: ") and "Traceback" not in error
        for text in says:
            assert text in line, line
        after = {path: data for path, data in files_of(tmp_path).items() if path.suffix != ".pyc"}
        own = {path for path in after if path.is_relative_to(tmp_path / "run")}
        assert begun or {path.name for path in own} <= {"run.lock", "log.txt"}
        assert {path: data for path, data in after.items() if path not in own} == before

    return run


def written(records: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return name


def training(task: str, objective: str, *more: str, config: str = "transformer") -> list[str]:
    data = (
        f"{{type: records, source: {{type: files, files: rows.jsonl}}, task: {task}, seq_len: 32}}"
    )
    words = ["train", str(SMOKE / f"{config}.yaml"), *PLAIN, "run_dir=run", f"data={data}"]
    return [*words, f"objective={objective}", *more]


QUESTIONS = training("{type: question_answering}", "{type: question_answering}")
CLASSES = training("{type: classification}", "{type: classification}")
CHAT = training("{type: chat, template: plain}", "{type: causal_lm}")
PAIRS = training("{type: preference}", "{type: dpo}")
SUMS = [{"prompt": f"{n}+1=", "completion": str(n + 1)} for n in range(20)]


def question(text: str, start: int) -> dict[str, Any]:
    answers = {"text": [text], "answer_start": [start]}
    return {"question": "Who?", "context": "Zoë: Ana spoke.", "answers": answers}


def talk(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text, **more} for role, text in turns]}


GOOD_TALK = talk(("user", "Hi"), ("assistant", "Ho"))


@pytest.mark.parametrize(
    ("records", "words", "says"),
    [
        pytest.param(
            [{"headline": "a", "stars": 1}],
            ["data", "convert", "rows.jsonl", "--to", "openai", "--out", "out.jsonl"],
            ("rows.jsonl", "headline, stars", "nearest"),
            id="unknown format",
        ),
        pytest.param(
            [question("Ana", 5), question("", 5)],
            QUESTIONS,
            ("rows.jsonl:2", "an answer is empty", "empty list of answers"),
            id="empty answer",
        ),
        pytest.param(
            [question("Ana", 5), question("Ana", 6)],
            QUESTIONS,
            ("rows.jsonl:2", "6 is not the place of 'Ana'", "UTF-8 bytes", "format.offsets: bytes"),
            id="span that was counted in bytes",
        ),
        pytest.param(
            [question("Ana", 5), question("Ana", 50)],
            QUESTIONS,
            ("rows.jsonl:2", "answer_start is not where the text is", "'Ana', which is at 5"),
            id="span outside its context",
        ),
        pytest.param(
            [talk(("user", "Hi"), ("assistant", "Ho"), weight=0)] * 2,
            CHAT,
            ("rows.jsonl:1", "nothing of this record is trained", "weight"),
            id="all weights zero",
        ),
        pytest.param(
            [talk(("user", f"{n}"), ("assistant", "Ho")) for n in range(20)],
            training("{type: chat}", "{type: causal_lm}"),
            ("the tokenizer has no chat template", "set data.task.template to one of", "chatml"),
            id="missing template",
        ),
        pytest.param(
            [GOOD_TALK, talk(("assistant", "Ho"), ("assistant", "Ha"))],
            CHAT,
            ("rows.jsonl:2", "message 1", "out of order", "must take turns"),
            id="role out of order",
        ),
        pytest.param(
            [{"prompt": "Hi", "chosen": "Ho", "rejected": "Ho"}],
            PAIRS,
            ("rows.jsonl:1", "chosen and rejected are equal", "remove the row"),
            id="pairs with equal sides",
        ),
        pytest.param(
            [{"source": "a " * 40, "target": "b"}],
            training(
                "{type: translation, encoder: true, max_source: 16}",
                "{type: seq2seq}",
                config="t5",
            ),
            ("rows.jsonl:1", "room for 1", "raise", "too_long"),
            id="a source longer than the encoder",
        ),
        pytest.param(
            [{"text": f"{n} fine", "label": "ab"[n % 2]} for n in range(20)],
            [*CLASSES, "evaluators={x: {type: task, metrics: [bleu]}}"],
            ("evaluators.x.metrics", "classification", "bleu", "choose from", "accuracy"),
            id="a metric that the task cannot have",
        ),
    ],
)
def test_a_mistake_is_one_line(
    fails: Fails, records: list[dict[str, Any]], words: list[str], says: tuple[str, ...]
) -> None:
    written(records)
    fails(*words, says=says)


def test_a_label_that_training_never_saw(fails: Fails) -> None:
    written([{"text": f"{n} fine", "label": "ab"[n % 2]} for n in range(20)])
    written([{"text": "1 fine", "label": "a"}, {"text": "2 poor", "label": "c"}], "held.jsonl")
    held = "data.validation={type: files, files: held.jsonl}"
    says = ("held.jsonl:2: labels", "not classes: c (classes: a, b)", "data.task.classes", "drop")
    fails(*CLASSES, held, says=says)


def test_a_teacher_with_another_tokenizer(fails: Fails, trained: Path) -> None:
    shutil.copytree(trained, "teacher")
    written(SUMS)
    objective = "{type: distill, teacher: {from: teacher}}"
    words = training("{type: prompt_completion}", objective, "tokenizer={type: characters}")
    says = ("objective.teacher.from", "teacher was trained with another tokenizer", "name a run")
    fails(*words, "model.vocab_size=300", "model.vocab_size=null", says=says)


def test_an_adapter_on_the_wrong_base(fails: Fails, trained: Path) -> None:
    shutil.copytree(PEFT, "lora")
    words = ("import", "peft", "lora", "--base", str(trained), "--out", "adapted")
    fails(*words, says=("--base", "trained names no model.family", "add model.family=NAME"))
    says = ("lora: is not an adapter of this LlamaForCausalLM", "no transformer.h.1", "by --base")
    fails(*words, "model.family=llama", says=says)


def test_a_reward_that_returns_nan(fails: Fails) -> None:
    """It is known when the first text is graded: the folder of the run has its config then, and no
    checkpoint, so the corrected command takes it.
    """
    written(SUMS)
    Path("my_rewards.py").write_text("def broken(record, text):\n    return float('nan')\n")
    objective = "{type: grpo, group_size: 4, max_tokens: 4, rewards: ['my_rewards:broken']}"
    says = ("objective.rewards: my_rewards:broken returned nan", "+1=", "return a finite number")
    fails(*training("{type: prompt_completion}", objective), says=says, begun=True)
    assert not [*Path("run").glob("checkpoints/*")]
