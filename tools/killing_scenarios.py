"""The runs that `tools/chaos.py` kills: each is a config, its settings, and what has to run before.

    scenarios(folder)["dpo"]        # its data is that of write_data(folder)

Those of the second stage begin with a run of their own, whose weights they start from, refer to or
learn from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from warm import ROOT

WORKING = ("step", "save", "commit", "start")
ENDING = ("evaluation", "result", "report")
PREPARING = ("tokenizer", "parts", "joining", "sealed", "removal")
Before = tuple[tuple[str | int, ...], ...]

SMOKE = ROOT / "configs" / "smoke"
TRANSFORMER = str(SMOKE / "transformer.yaml")
STEPS = ("train.steps=16", "checkpoint.every_steps=2", "eval.every_steps=8", "eval.max_batches=2")
SYNTHETIC = ("data.source.num_documents=40", "data.source.words_per_document=60")
SILENT = ("sample.prompts=[]", "logging.tensorboard=false")
QUIET = (*STEPS, *SYNTHETIC, *SILENT)
# Runs whose checkpoints hold a part of the parameters: the rest is drawn from the seed again.
ADAPTERS = {
    "lora": "{type: lora, rank: 2}",
    "freeze": "{type: freeze, train: [norm, ffn]}",
}
ROLLBACK = ("train.rollback={after: 2, before: 1, max: 2}", "train.steps=14")
BREAKS: Before = (("strikes:batch_that_breaks", 5),)
# A tokenizer that is trained, and as many parts as there are files.
TRAINED = "tokenizer={type: sentencepiece, vocab_size: 320}"
FILES, SENTENCES = 24, 40
WORDS = ("the", "sea", "of", "names", "turns", "under", "a", "low", "moon", "and", "nobody")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A scenario: what is run, and where its kills are aimed at."""

    name: str
    config: str = TRANSFORMER
    settings: tuple[str, ...] = QUIET
    first: tuple[tuple[str, ...], ...] = ()  # commands of jaxlm that are run once, before all else
    working: tuple[str, ...] = WORKING
    ending: tuple[str, ...] = ENDING
    per_run: int = 9  # kills of one run, those of its end included
    processes: int = 1
    before: Before = ()  # calls in each process, see tools/warm.py
    rolled_back: int = 0  # at this step a rollback is over
    kind: str = "run"  # a key of KINDS, see tools/killing_kinds.py


def scenarios(folder: Path) -> dict[str, Scenario]:
    """All scenarios by name; the runs and the data are in `folder`."""
    found = [*pretraining(), *preparation(folder / "data"), *second_stage(folder)]
    return {scenario.name: scenario for scenario in found}


def pretraining() -> list[Scenario]:
    """Runs on synthetic texts, in one process or two; those that roll back or lose a worker."""
    plain = (*STEPS, *SYNTHETIC)
    smoke = [
        Scenario(
            name=path.stem,
            config=str(path),
            settings=plain if path.stem == "transformer" else QUIET,
        )
        for path in sorted(SMOKE.glob("*.yaml"))
    ]
    adapted = [
        Scenario(name=name, settings=(*QUIET, f"adapter={adapter}"))
        for name, adapter in ADAPTERS.items()
    ]
    return [
        *smoke,
        *adapted,
        Scenario(name="processes", settings=(*QUIET, "mesh={data: 2}"), processes=2),
        Scenario(
            name="worker",
            settings=(*QUIET, "train.data_workers=1"),
            working=("step", "start", "step"),
            ending=(),
            per_run=6,
            kind="worker",
        ),
        Scenario(
            name="rollback",
            config=str(SMOKE / "lstm.yaml"),
            settings=(*QUIET, *ROLLBACK),
            working=("rollback", "rollback", "step", "rollback", "start", "save"),
            before=BREAKS,
            rolled_back=10,
        ),
        Scenario(
            name="rollback_processes",
            settings=(*QUIET, *ROLLBACK, "mesh={data: 2}"),
            working=("rollback", "rollback", "step"),
            processes=2,
            before=BREAKS,
            rolled_back=10,
        ),
        Scenario(
            name="writes",
            settings=(*plain, "train.steps=4", "eval.every_steps=2"),
            per_run=60,
            kind="writes",
        ),
    ]


def preparation(data: Path) -> list[Scenario]:
    """Stores and tokenizers of many files: texts, and tables."""
    texts = f"data={{type: text, source: {{type: text, files: {data}/*.txt}}, seq_len: 32}}"
    rows = {
        "preparation": (texts, "data.validation_fraction=0.2"),
        "preparation_records": (
            records(f"csv, files: {data}/*.csv", "{type: classification}"),
            "data.augment=[{type: word_dropout}]",
            "objective={type: classification}",
        ),
    }
    return [
        Scenario(
            name=name,
            settings=(*STEPS, *SILENT, *settings, TRAINED),
            working=PREPARING,
            ending=(),
            per_run=12,
            kind="preparation",
        )
        for name, settings in rows.items()
    ]


def second_stage(folder: Path) -> list[Scenario]:
    """Every kind of learner and of frozen model: tasks on records, adapters, preferences, a
    teacher, rollouts, counts, and tables that change by rows.
    """
    data = folder / "data"
    answers = records(f"jsonl, files: {data}/answers.jsonl", "{type: prompt_completion}")
    pairs = records(f"jsonl, files: {data}/pairs.jsonl", "{type: preference}")
    tags = records(f"jsonl, files: {data}/tags.jsonl", "{type: tagging}")
    classes = records(f"csv, files: {data}/*.csv", "{type: classification}")
    each = records(f"files, files: {data}/pairs.jsonl", "{type: kto}")
    spans = "{type: question_answering, doc_stride: 8}"
    questions = records(f"jsonl, files: {data}/questions.jsonl", spans)
    translated = "{type: translation, source: prompt, target: completion, encoder: true}"
    sources = records(f"jsonl, files: {data}/answers.jsonl", translated)
    encoder = (
        "model.encoder={hidden_size: 32, num_layers: 1, dtype: float32, "
        "attention: {num_heads: 4, is_causal: false}}"
    )
    whole = "data.packing=whole"
    # a save between two steps that learn from the same rollout
    grpo = (
        "objective={type: grpo, group_size: 4, max_tokens: 6, num_iterations: 2, beta: 0.1}",
        "checkpoint.every_steps=3",
    )
    # {name: (settings, the key that names the run before it)}
    rows: dict[str, tuple[tuple[str, ...], str | None]] = {
        "classification": (
            (classes, "data.augment=[{type: word_dropout}]", "objective={type: classification}"),
            "init.from",
        ),
        "tagging": ((tags, "objective={type: tagging}"), "init.from"),
        "question_answering": ((questions, "objective={type: question_answering}"), "init.from"),
        "seq2seq": ((sources, whole, encoder, "objective={type: seq2seq}"), None),
        "lora_second": (
            (answers, whole, "adapter={type: lora, rank: 2, dropout: 0.1}"),
            "init.from",
        ),
        "qlora": (
            (answers, whole, "adapter={type: lora, rank: 2, base_weights: nf4}"),
            "init.from",
        ),
        "dora": ((answers, whole, "adapter={type: dora, rank: 2, dropout: 0.1}"), "init.from"),
        "dpo": ((pairs, whole, "objective={type: dpo}"), "init.from"),
        "dpo_lora": ((pairs, "objective={type: dpo}", "adapter={type: lora}"), "init.from"),
        "kto": ((each, whole, "objective={type: kto}"), "init.from"),
        "orpo": ((pairs, whole, "objective={type: orpo}"), "init.from"),
        "simpo": ((pairs, whole, "objective={type: simpo}"), "init.from"),
        "reward": ((pairs, whole, "objective={type: reward}"), "init.from"),
        "distill": (
            (answers, whole, "model.hidden_size=16", "objective={type: distill}"),
            "objective.teacher.from",
        ),
        "gkd": (
            (answers, "model.hidden_size=16", "objective={type: gkd, max_tokens: 6}"),
            "objective.teacher.from",
        ),
        "grpo": ((answers, *grpo), "init.from"),
        "grpo_packed": (
            (
                answers,
                "objective={type: grpo, group_size: 4, max_tokens: 6, packing: whole}",
            ),
            "init.from",
        ),
        "counted_first": (
            (
                classes,
                "model={type: bag_of_words, idf: true, norm: l2}",
                "objective={type: counted_first, head: {type: nbsvm}}",
            ),
            None,
        ),
        "counting": (("objective={type: 'tests.bigrams:Bigrams'}", "optimizer=null"), None),
        "word_vectors": (
            (
                "tokenizer={type: words}",
                "model={type: word_vectors, hidden_size: 16}",
                "objective={type: skip_gram}",
                "optimizer={type: sgd, learning_rate: 0.025, clip_norm: null}",
                "data.seq_len=16",
            ),
            None,
        ),
        "ngram": (
            ("model={type: ngram, order: 4}", "objective={type: ngram}", "optimizer=null"),
            None,
        ),
    }
    start = ("train", TRANSFORMER, *SILENT, answers, "train.steps=4", "eval.at_end=false")
    found = []
    for name, (settings, key) in rows.items():
        run = folder / name / "start"
        found.append(
            Scenario(
                name=name,
                settings=(*STEPS, *SILENT, *settings, *([f"{key}={run}"] if key else [])),
                first=((*start, f"run_dir={run}"),) if key else (),
            )
        )
    return found


def records(source: str, task: str) -> str:
    """The override that makes the data records of 32 tokens."""
    return f"data={{type: records, source: {{type: {source}}}, task: {task}, seq_len: 32}}"


def write_data(folder: Path) -> None:
    """Writes the data that the scenarios of `folder` read: a corpus of small files, each of which
    becomes a part of a store, as texts and as tables; sums with right and wrong answers, and as
    questions about a text; words with tags.
    """
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        sentences = [
            " ".join(WORDS[(number * 7 + i * k) % len(WORDS)] for k in range(1, 12))
            for i in range(SENTENCES)
        ]
        (data / f"{number:03d}.txt").write_text("\n".join(sentences) + f"\n{number}\n")
        rows = (f"{line} {number},{'ab'[i % 2]}" for i, line in enumerate(sentences))
        (data / f"{number:03d}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    sums = [(a, b) for a in range(12) for b in range(8)]
    tables = {
        "answers": [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a, b in sums],
        "pairs": [
            {"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": str(a + b + 1)}
            for a, b in sums
        ],
        "questions": [
            {
                "id": f"{a} {b}",
                "context": f"{a} and {b} are {a + b} and no more.",
                "question": "Sum?",
                "answers": {"text": [str(a + b)], "answer_start": [len(f"{a} and {b} are ")]},
            }
            for a, b in sums
        ],
        "tags": [
            {"tokens": [WORDS[a % 11], WORDS[b], str(a)], "tags": ["W", "W", "N"]} for a, b in sums
        ],
    }
    for name, made in tables.items():
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
