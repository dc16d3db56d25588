"""A language model that is asked: log-likelihoods against its logits, few-shot prompts, the methods
that lm-evaluation-harness calls, and that harness itself where it is installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import jaxlm
from jaxlm import cli
from jaxlm.core.config import UserError, parse
from jaxlm.core.measures import values_of
from jaxlm.core.types import TokenizerConfig
from jaxlm.data.records import RecordData
from jaxlm.data.sources.jsonl import JsonLines
from jaxlm.evals import likelihood as scoring
from jaxlm.evals.harness import Harness, evaluate_harness, figures
from jaxlm.evals.likelihood import Likelihood, split_ids
from jaxlm.evals.shots import Examples, FewShot
from jaxlm.tasks.base import Asked
from jaxlm.tasks.chat import Chat
from jaxlm.tasks.classification import Classification
from jaxlm.tasks.prompt_completion import PromptCompletion
from jaxlm.tasks.question_answering import QuestionAnswering
from jaxlm.tasks.regression import Regression
from tests import tiny

QUIET = ("train.steps=2", "sample.prompts=[]", "logging.tensorboard=false", "eval.at_end=false")
WORDS = ("good", "fine", "bad", "dull")


@pytest.fixture(scope="module")
def run(shared_programs: None, tmp_path_factory: pytest.TempPathFactory) -> jaxlm.Run:
    folder = tmp_path_factory.mktemp("asked")
    rows = [f"{WORDS[n % 4]} film {n},{('yes', 'never')[n % 4 // 2]}" for n in range(40)]
    (folder / "r.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (folder / "task.yaml").write_text(
        f"data: {{type: records, source: {{type: csv, files: {folder}/r.csv}}, seq_len: 24, "
        "task: {type: classification}, validation_fraction: 0.3}\n"
    )
    return jaxlm.train(tiny.load("transformer", *QUIET, f"run_dir={folder}/run").config)


def from_logits(run: jaxlm.Run, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    ids = [*context, *continuation]
    padded = [*ids, *[0] * (64 - len(ids))]  # of one size: it is compiled once
    logits = run.logits([padded])[0, : len(ids)].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1))[:, None]
    logprobs -= logits.max(-1, keepdims=True)
    places = range(len(context) - 1, len(ids) - 1)
    total = sum(logprobs[place, ids[place + 1]] for place in places)
    return total, all(logits[place].argmax() == ids[place + 1] for place in places)


def test_log_likelihoods_are_those_of_the_logits(
    run: jaxlm.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs of unequal length, in batches that mix them, answered in the order of the requests."""
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 32)  # one or two rows a device
    likelihood, rng = Likelihood(run.program, run.params), np.random.default_rng(0)
    sizes = [(1, 1), (9, 3), (2, 14), (20, 5), (3, 1), (1, 30), (4, 4)] * 3
    pairs = [(rng.integers(3, 250, a).tolist(), rng.integers(3, 250, b).tolist()) for a, b in sizes]
    context = pairs[1][0]
    best = int(run.logits([[*context, *[0] * (64 - len(context))]])[0, len(context) - 1].argmax())
    pairs += [(context, [best]), (context, [])]
    found = likelihood(pairs)
    for (before, after), (logprob, greedy) in zip(pairs[:-1], found, strict=False):
        expected, likeliest = from_logits(run, before, after)
        assert logprob == pytest.approx(expected, abs=1e-4) and greedy == likeliest
    assert found[-2].greedy and found[-1] == (0.0, True)
    assert likelihood([]) == []


def test_a_long_context_loses_its_beginning(run: jaxlm.Run) -> None:
    likelihood = Likelihood(run.program, run.params)
    likelihood.longest = 16
    ids = np.random.default_rng(1).integers(3, 250, 40).tolist()
    (found,) = likelihood([(ids[:37], ids[37:])])
    assert found.logprob == pytest.approx(from_logits(run, ids[23:37], ids[37:])[0], abs=1e-4)
    cut = [likelihood.is_cut((ids[:n], ids[37:])) for n in (13, 14, 15)]
    assert cut == [False, False, True]
    (whole,) = likelihood([(ids[:1], ids[1:17])])
    assert whole.logprob == pytest.approx(from_logits(run, ids[:1], ids[1:17])[0], abs=1e-4)
    with pytest.raises(UserError, match="a continuation has 17 tokens but the model has 16 posit"):
        likelihood([(ids[:1], ids[1:18])])


def test_a_continuation_is_tokenised_with_its_context(run: jaxlm.Run) -> None:
    class Pairs:
        """Two letters are one token."""

        bos_id, eos_id = 1, 2

        def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
            places = [(n, min(n + 2, len(text))) for n in range(0, len(text), 2)]
            return [3 + n for n in range(len(places))], places

    assert split_ids(Pairs(), "abc", "def", True) == ([1, 3], [4, 5])  # "cd" is of both
    assert split_ids(Pairs(), "ab", "cd", False) == ([3], [4])
    assert split_ids(Pairs(), "", "ab", False) == ([1], [3])
    tokenizer = run.tokenizer
    before, after = split_ids(tokenizer, "To be", " or", True)
    assert tokenizer.decode([*before[1:], *after]) == "To be or" and before[0] == tokenizer.bos_id


def test_a_classifier_has_no_log_likelihoods(run: jaxlm.Run) -> None:
    silent = SimpleNamespace(why_silent=lambda model: "chooses classes and writes no text")
    program = SimpleNamespace(model=run.program.model, objective=silent)
    with pytest.raises(UserError, match="objective: chooses classes .* need a causal_lm run"):
        Likelihood(program, None)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- few shots


def test_classes_are_chosen_after_examples(run: jaxlm.Run, capsys: Any) -> None:
    words = ["eval", str(run.path), "--shots", "2", "--task", str(run.path.parent / "task.yaml")]
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["final"]

    import yaml

    from jaxlm.data.store.prepared import DataConfig

    values = yaml.safe_load((run.path.parent / "task.yaml").read_text())["data"]
    data = parse(DataConfig, values)
    assert isinstance(data, RecordData)
    saved = {"type": "saved", "path": str(run.path / "tokenizer")}
    prepared = data.prepare(parse(TokenizerConfig, saved), Path(tiny.cache_dir()), report=len)  # type: ignore[arg-type]
    train: Any = prepared.splits["train"]
    held: Any = prepared.splits["validation"]
    order = np.random.RandomState(0).permutation(len(train.rows.records))
    shown = [train.rows.records[int(n)] for n in order[:2]]
    before = "".join(f"{r['text']}\n{r['label']}\n\n" for r in shown)
    right = by_length = 0
    for record in held.rows.records:
        prompt = f"{before}{record['text']}\n"
        scores = {}
        for name in ("never", "yes"):
            pair = split_ids(run.tokenizer, prompt, name, True)
            scores[name] = from_logits(run, *map(list, pair))[0]
        right += max(scores, key=lambda n: scores[n]) == record["label"]
        by_length += max(scores, key=lambda n: scores[n] / len(n)) == record["label"]
    total = len(held.rows.records)
    assert found["eval/accuracy"] == pytest.approx(right / total)
    assert found["eval/by_length/accuracy"] == pytest.approx(by_length / total)

    assert cli.main([*words, "--limit", "3"]) == 0
    assert "validation split, 2 examples" in capsys.readouterr().out
    for wrong, message in (
        (words[:4], "is trained on running text, so there are no questions; name a config with"),
        ([*words[:3], "99", *words[4:]], "--shots: 99 but the training split has"),
        ([*words, "--split", "test"], "the data has no 'test' split"),
        ([*words[:2], *words[4:]], "--task: is asked with examples; add --shots K"),
        (["eval", str(run.path), "--limit", "3"], "--limit: is of --shots and --lm-eval"),
        (["eval", str(run.path), "--seed", "1"], "--seed: draws the examples of --shots"),
        (["eval", str(run.path), "--lm-eval", ","], "--lm-eval: names no task"),
        (["eval", str(run.path), "train.steps=3", "--lm-eval", "a"], "--lm-eval: measures the run"),
        ([*words[:2], "--lm-eval", "a", "--accept-changed-data"], "--lm-eval: measures the run as"),
        ([*words[:2], "--lm-eval", "a", "--seed", "1"], "--seed: draws the examples of --shots"),
        ([*words, "--accept-changed-data"], "--accept-changed-data: --shots does not compare"),
        ([*words, "--data", "x.csv"], "--data: --shots and --lm-eval measure records of a task"),
    ):
        assert cli.main(wrong) == 2
        assert message in capsys.readouterr().err


def test_prompts_with_examples() -> None:
    task = Classification(classes=("a", "b"))
    one, two = {"text": "x", "label": "a"}, {"text": "y", "label": "b"}
    assert task.shots([one], two) == Asked("x\na\n\ny\n", "\n\n")
    assert task.shots([], two).prompt == "y\n" and task.choices == ("a", "b")

    qa = QuestionAnswering()
    record = {"question": "Who?", "context": "Ana spoke.",
              "answers": {"text": ["Ana"], "answer_start": [0]}}  # fmt: skip
    assert qa.shots([record], record).prompt == "Ana spoke.\nWho?\nAna\n\nAna spoke.\nWho?\n"
    assert qa.grade(record, "ana") == 1 and qa.grade(record, "Bo") == 0

    sums = PromptCompletion()
    pair = {"prompt": "1+1=", "completion": "2"}
    assert sums.shots([pair], {"prompt": "1+2=", "completion": "3"}) == Asked(
        "1+1=2\n\n1+2=", "\n\n"
    )

    chat = Chat(system="Be brief.")
    talk = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "A"}]}
    asked = chat.shots([talk], {"messages": [{"role": "user", "content": "b?"}]})
    assert [(m["role"], m["content"]) for m in json.loads(asked.prompt)] == [
        ("system", "Be brief."),
        ("user", "a?"),
        ("assistant", "A"),
        ("user", "b?"),
    ]
    assert asked.stop == ""
    with pytest.raises(NotImplementedError):
        Regression().shots([], {"text": "x", "label": 1.0})


def test_examples_are_as_many_as_are_asked_for() -> None:
    """Never the record itself, nor its duplicates, in whose place others are drawn."""
    task = Classification(classes=("a", "b"))
    train = [{"text": "xyzxyx"[n], "label": "a"} for n in range(6)]
    examples = Examples(task, train, seed=0)  # type: ignore[arg-type]
    drawn = [train[n] for n in np.random.RandomState(0).permutation(6)]
    for text in "wxyz":
        others = [each for each in drawn if each["text"] != text]
        for count in range(1, len(others) + 1):
            assert examples({"text": text, "label": "a"}, count) == others[:count]
    with pytest.raises(UserError, match="--shots: 4 but the training split has 3 records that are"):
        examples({"text": "x", "label": "b"}, 4)


def test_answers_are_written_after_prompts_that_fit(run: jaxlm.Run, tmp_path: Path) -> None:
    """The examples of a question are whole contexts, whose windows are a row each."""
    long = "Ana spoke of the sea and of ships. " * 4
    rows = []
    for n in range(12):
        context = f"{n} {long}Bo {n} did not."
        answers = {"text": [f"Bo {n}"], "answer_start": [context.index("Bo")]}
        rows.append({"question": "Who?", "context": context, "answers": answers, "title": f"{n}"})
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = RecordData(
        source=JsonLines(files=(f"{tmp_path}/q.jsonl",)),
        task=QuestionAnswering(doc_stride=4, group="title"),
        seq_len=48,
        validation_fraction=0.4,
    )
    saved = parse(TokenizerConfig, {"type": "saved", "path": str(run.path / "tokenizer")})  # type: ignore[type-abstract]
    prepared = data.prepare(saved, tmp_path / "cache", report=len)  # type: ignore[arg-type]
    likelihood, lines = Likelihood(run.program, run.params), []
    config = run.config.replace(sample=run.config.sample.replace(max_tokens=4))
    few = FewShot(prepared, config, run.program, run.params, run.ends, likelihood, lines.append)
    likelihood.longest = 400
    few(0, "validation")
    assert lines == []
    likelihood.longest = 64
    found = values_of(few(1, "validation"))
    rows_of: Any = prepared.splits["validation"]
    count = sum(window["first"] for window in rows_of.rows.records)
    assert {*found} == {"exact_match", "f1"} and 1 < count < 12
    assert lines == [
        f"--shots: {count} of {count} prompts lose their beginning: with the answer they are "
        "longer than the model's 64 positions; ask with fewer"
    ]
    likelihood.longest = 4
    with pytest.raises(UserError, match="sample.max_tokens: 4 but the model has 4 positions"):
        few(0, "validation")


# ----------------------------------------------------------------------------------- the harness


def request(*args: Any) -> Any:
    return SimpleNamespace(args=args)


def test_the_harness_asks_for_log_likelihoods(run: jaxlm.Run) -> None:
    harness = Harness(run)
    asked = [("To be", " or not"), ("", "King"), ("Enter ROMEO and more", ".")]
    found = harness.loglikelihood([request(*each) for each in asked])
    for each, (logprob, greedy) in zip(asked, found, strict=True):
        pair = split_ids(run.tokenizer, *each, True)
        assert (logprob, greedy) == pytest.approx(from_logits(run, *map(list, pair)), abs=1e-4)

    harness.likelihood.longest = 16
    text = "Now is the winter of our discontent made glorious summer."
    (rolled,) = harness.loglikelihood_rolling([request(text)])
    ids = [run.tokenizer.bos_id, *run.tokenizer.encode(text)]
    total = 0.0
    for first in range(1, len(ids), 16):
        last = min(first + 16, len(ids))
        context = ids[max(0, last - 17) : first]
        total += from_logits(run, context, ids[first:last])[0]
    assert rolled == pytest.approx(total, abs=1e-3) and len(ids) > 33


def test_the_harness_reports_prompts_that_lose_their_beginning(
    run: jaxlm.Run, caplog: pytest.LogCaptureFixture
) -> None:
    harness = Harness(run)
    harness.likelihood.longest = 16
    long = "Now is the winter of our discontent"
    with caplog.at_level("WARNING", logger="jaxlm"):
        harness.loglikelihood([request("To", " be")])
        assert not caplog.records
        harness.loglikelihood([request("To", " be"), request(long, " made")])
        harness.generate_until([request(text, {"max_gen_toks": 6}) for text in ("To", long)])
    lines = [record.getMessage() for record in caplog.records if "--lm-eval" in record.getMessage()]
    assert len(lines) == 2 and all("1 of 2 prompts lose their beginning" in each for each in lines)


def test_the_harness_asks_for_text(run: jaxlm.Run) -> None:
    harness = Harness(run)
    contexts = ["To be", "Enter", "A much longer beginning of a text"]
    settings = {"until": ["\n\n\n"], "max_gen_toks": 6, "do_sample": False}
    found = harness.generate_until([request(context, settings) for context in contexts])
    assert found == run.generate(contexts, max_tokens=6, temperature=0.0)
    stop = next(text[1:3] for text in found if len(text) > 3)
    cut = harness.generate_until([request(c, {**settings, "until": stop}) for c in contexts])
    assert cut == [text.partition(stop)[0] for text in found] and cut != found
    short = {**settings, "max_gen_toks": 4}
    nearly_greedy = {**short, "do_sample": True, "top_k": 1, "until": "\n\n\n"}  # drawn, of one
    assert harness.generate_until([request("To be", nearly_greedy)]) == harness.generate_until(
        [request("To be", short)]
    )
    (searched,) = harness.generate_until([request("To be", {**short, "num_beams": 3})])
    assert searched == run.generate("To be", max_tokens=4, temperature=0.0, num_beams=3)
    for wrong, message in (
        ({"typical_p": 0.5}, "generation_kwargs: typical_p has no effect here; remove it"),
        ({"top_p": 2.0, "do_sample": True}, "generation_kwargs: top_p"),
        ({"num_beams": 2, "do_sample": True}, "a beam search does not sample"),
    ):
        with pytest.raises(UserError, match=message):
            harness.generate_until([request("To be", wrong)])
    with pytest.raises(UserError, match="max_gen_toks: 99 but the model has 16 positions"):
        harness.likelihood.longest = 16
        harness.generate_until([request("To be", {"max_gen_toks": 99})])


def test_contexts_of_a_template_have_its_special_tokens(run: jaxlm.Run) -> None:
    from jaxlm.chat.template import named

    told = SimpleNamespace(**{n: getattr(run, n) for n in ("program", "params", "config", "ends")})
    told.path, told.tokenizer = run.path, run.tokenizer.with_chat_template(named("mistral"))  # type: ignore[attr-defined]
    harness = Harness(told)
    text = harness.apply_chat_template([{"role": "user", "content": "Hi"}])
    assert text.startswith("<s>") and "Hi" in text
    pair = harness._pair(text, "x")
    assert pair[0][0] == run.tokenizer.bos_id and run.tokenizer.bos_id not in pair[0][1:]
    assert harness.chat_template() and "/" not in harness.tokenizer_name


def test_figures_of_the_harness() -> None:
    results = {"toy": {"alias": "toy", "acc,none": 0.5, "acc_stderr,none": 0.1,
                       "exact_match,strict": 0.2, "ppl,none": 9}}  # fmt: skip
    found = figures(results, {"toy": {"acc": True, "ppl": False}})
    assert values_of(found) == {
        "toy/acc": 0.5, "toy/acc_stderr": 0.1, "toy/exact_match/strict": 0.2, "toy/ppl": 9.0
    }  # fmt: skip
    assert [m.better for m in found] == ["higher", None, None, "lower"]


SHARED = """\
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/toy.jsonl}}
test_split: test
doc_to_text: "{{question}}"
"""
TASKS = {
    "toy_choice": """\
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "toy_written": """\
output_type: generate_until
doc_to_target: "{{written}}"
generation_kwargs: {until: ["\\n\\n\\n"], max_gen_toks: 5, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "toy_rolling": """\
output_type: loglikelihood_rolling
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte}]
""",
}


def test_a_local_task_of_the_harness(
    run: jaxlm.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """End to end, where lm_eval is installed (pip install 'jaxlm[eval]')."""
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"needs lm_eval; run: pip install 'jaxlm\[eval\]'"):
            evaluate_harness(run, ["toy_choice"])
        pytest.skip("lm_eval is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    written = run.generate([f"Act {n}:" for n in range(6)], max_tokens=5, temperature=0.0)
    docs = [
        {"question": f"Act {n}:", "choices": ["the king", "a", "Enter"], "answer": n % 3,
         "written": text if n < 4 else "other"}
        for n, text in enumerate(written)
    ]  # fmt: skip
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    for name, text in TASKS.items():
        shared = SHARED.replace("FOLDER", str(tmp_path))
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\n{shared}{text}")
    found = values_of(evaluate_harness(run, [*TASKS], include_path=str(tmp_path)))
    assert found["toy_written/exact_match"] == pytest.approx(4 / 6)
    total = sum(
        from_logits(run, *map(list, split_ids(run.tokenizer, "", doc["question"], True)))[0]
        for doc in docs
    )
    size = sum(len(doc["question"]) for doc in docs)
    assert found["toy_rolling/bits_per_byte"] == pytest.approx(-total / size / np.log(2), rel=1e-4)
    right = 0
    for doc in docs:
        pairs = [split_ids(run.tokenizer, doc["question"], f" {c}", True) for c in doc["choices"]]
        scores = [from_logits(run, *map(list, pair))[0] for pair in pairs]
        right += int(np.argmax(scores)) == doc["answer"]
    assert found["toy_choice/acc"] == pytest.approx(right / 6)
    with pytest.raises(UserError, match="the harness has no task nothing_like_it"):
        evaluate_harness(run, ["nothing_like_it"], include_path=str(tmp_path))
