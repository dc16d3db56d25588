"""Writes docs/combinations.md: what combines with what, each cell of the page tried at a tiny size.

    python tools/combinations.py                      # all cells; prints each
    python tools/combinations.py --kept found.jsonl   # keeps outcomes, and tries the others only
    python tools/combinations.py --only "DPO|GRPO"    # cells whose name matches, to the terminal
    python tools/combinations.py --check 6 --seed 1   # tries six cells, and compares with the page

A cell is one of METHODS, one of MODELS and one of ADAPTERS, and every product of the three is
tried: two steps of training, then what the task is for, predictions for its records or an
evaluation. What is refused is refused by one line, which the page gives.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import itertools
import json
import logging
import random
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import quick_xla

if __name__ == "__main__":
    quick_xla.set_flags()

import jaxlm
from jaxlm.core.config import UserError
from jaxlm.run import load_run

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "combinations.md"
SMOKE = ROOT / "configs" / "smoke"

SMALL = ("hidden_size=16", "dropout=0", "num_layers=1")
BLANKS = "vocab_size=264"  # room for the ids of blanks after those of the bytes
# {how the page calls a kind of model: (the smoke config that has it, settings of its model)}
MODELS = {
    "decoder": ("transformer", (*SMALL, BLANKS)),
    "mixture of experts": ("moe", (*SMALL[:2], "num_layers=2", BLANKS)),  # the first has no experts
    "encoder": ("bert", SMALL),
    "encoder-decoder": ("t5", (*SMALL, *(f"encoder.{word}" for word in SMALL))),
    "GLM": ("glm", (*SMALL, "prompt={type: fill_blank, start_id: 261, blank_ids: [263, 262]}")),
    "LSTM": ("lstm", (*SMALL, "carry_state=false")),
}
FULL = "all parameters"
ADAPTERS = {
    FULL: "null",
    "freeze": "{type: freeze, train: [embed]}",
    "LoRA": "{type: lora, rank: 2, targets: [all-linear]}",
    "QLoRA": "{type: lora, rank: 2, targets: [all-linear], base_weights: nf4}",
    "DoRA": "{type: dora, rank: 2, targets: [all-linear]}",
}
WORDS = ("Ana", "Bo", "Chen", "Dee", "Eva")
NUMBER = 24  # records
FAILED = "FAILED: "


def classes(n: int) -> dict[str, Any]:
    return {"text": f"{WORDS[n % 5]} met {WORDS[n % 3]}", "label": ["good", "bad"][n % 2]}


def labels(n: int) -> dict[str, Any]:
    return {"text": f"{WORDS[n % 5]} {n}", "label": ["a", "b"][: 1 + n % 2]}


def numbers(n: int) -> dict[str, Any]:
    return {"text": f"{WORDS[n % 5]} {n}", "label": float(n % 7)}


def pairs(n: int) -> dict[str, Any]:
    return {"text": WORDS[n % 5], "text_b": WORDS[n % 3], "label": str(n % 5 == n % 3)}


def tags(n: int) -> dict[str, Any]:
    return {"tokens": [WORDS[n % 5], "met", WORDS[n % 3]], "tags": ["B-P", "O", "B-P"]}


def questions(n: int) -> dict[str, Any]:
    context = f"{n}: {WORDS[n % 5]} spoke."
    answers = {"text": [WORDS[n % 5]], "answer_start": [context.index(WORDS[n % 5])]}
    return {"question": "Who?", "context": context, "answers": answers}


def talks(n: int) -> dict[str, Any]:
    said = [("user", f"say {n}"), ("assistant", WORDS[n % 5])]
    return {"messages": [{"role": role, "content": text} for role, text in said]}


def completions(n: int) -> dict[str, Any]:
    return {"prompt": f"{n}+1=", "completion": str(n + 1)}


def translations(n: int) -> dict[str, Any]:
    return {"source": f"{WORDS[n % 5]} {n}", "target": f"{n} {WORDS[n % 5]}"}


def summaries(n: int) -> dict[str, Any]:
    return {"document": f"{WORDS[n % 5]} met.", "summary": WORDS[n % 5]}


def blanks(n: int) -> dict[str, Any]:
    return {"text": f"{WORDS[n % 5]} [MASK]", "answer": "a"}


def preferences(n: int) -> dict[str, Any]:
    return {"prompt": f"{n}+1=", "chosen": str(n + 1), "rejected": str(n + 2)}


def verdicts(n: int) -> dict[str, Any]:
    return {"prompt": f"{n}+1=", "completion": str(n + 1 + n % 2), "label": n % 2 == 0}


@dataclass(frozen=True)
class Method:
    """A task or method: its records, the task and the objective of the config. No records: running
    text; no objective: the model's own, such as blanks of a GLM. then: what is done with the
    trained run.
    """

    make: Any = None
    task: str = ""
    objective: str = ""
    then: str = "predict"


METHODS = {
    "language model": Method(then="evaluate"),
    "masked tokens": Method(objective="masked_lm", then="evaluate"),
    "span corruption": Method(objective="span_corruption", then="evaluate"),
    "blank infilling": Method(objective="blank_infilling", then="evaluate"),
    "classification": Method(classes, "classification", "classification"),
    "multi-label": Method(labels, "multi_label", "multi_label"),
    "regression": Method(numbers, "regression", "regression"),
    "pairs": Method(pairs, "pair", "classification"),
    "tagging": Method(tags, "tagging", "tagging"),
    "question answering": Method(questions, "question_answering", "question_answering"),
    "chat": Method(talks, "chat, template: plain", "causal_lm"),
    "prompt and completion": Method(completions, "prompt_completion", "causal_lm"),
    "chat, in a blank": Method(talks, "chat, template: plain", "blank_infilling"),
    "translation, one text": Method(translations, "translation", "causal_lm"),
    "translation, encoder": Method(translations, "translation, encoder: true", "seq2seq"),
    "summaries, one text": Method(summaries, "summarisation", "causal_lm"),
    "summaries, encoder": Method(summaries, "summarisation, encoder: true", "seq2seq"),
    "masked fill": Method(blanks, "fill_mask, mask: 259", "masked_lm"),
    "DPO": Method(preferences, "preference", "dpo", then="evaluate"),
    "ORPO": Method(preferences, "preference", "orpo", then="evaluate"),
    "SimPO": Method(preferences, "preference", "simpo", then="evaluate"),
    "reward model": Method(preferences, "preference", "reward", then="evaluate"),
    "KTO": Method(verdicts, "kto", "kto", then="evaluate"),
    "GRPO": Method(
        completions, "prompt_completion", "grpo, group_size: 4, max_tokens: 4", then="evaluate"
    ),
    "distillation": Method(
        completions, "prompt_completion", "distill, teacher: {from: TEACHER}", then="evaluate"
    ),
    "GKD": Method(
        completions,
        "prompt_completion",
        "gkd, max_tokens: 4, teacher: {from: TEACHER}",
        then="evaluate",
    ),
}


@dataclass(frozen=True)
class Cell:
    method: str
    model: str
    adapter: str

    def __str__(self) -> str:
        return f"{self.method} / {self.model} / {self.adapter}"


CELLS = [Cell(*names) for names in itertools.product(METHODS, MODELS, ADAPTERS)]


def settings_of(model: str, folder: Path) -> tuple[Path, list[str]]:
    """A config file, and what makes it tiny."""
    smoke, own = MODELS[model]
    return SMOKE / f"{smoke}.yaml", [
        *(f"model.{word}" for word in own),
        "train.steps=2",
        "train.batch_size=8",
        "train.ledger=false",
        "optimizer.schedule.warmup=1",
        "logging.tensorboard=false",
        "sample.prompts=[]",
        "eval.every_steps=null",
        "eval.at_end=false",
        "checkpoint.every_steps=null",
        "mesh.num_devices=1",
        f"cache_dir={folder}/cache",
    ]


def teacher_of(model: str, folder: Path) -> Path:
    """A run of the model on running text, trained once."""
    run_dir = folder / f"teacher_{model}"
    if not run_dir.exists():
        file, settings = settings_of(model, folder)
        jaxlm.train(load_run(file, [*settings, f"run_dir={run_dir}"]).config)
    return run_dir


def tried(cell: Cell, folder: Path) -> str:
    """ "" for a cell that works, else the line that refuses it. Other failures are raised."""
    method = METHODS[cell.method]
    file, settings = settings_of(cell.model, folder)
    run_dir = folder / re.sub(r"\W+", "_", str(cell))
    settings += [f"adapter={ADAPTERS[cell.adapter]}", f"run_dir={run_dir}"]
    given: list[dict[str, Any]] = []
    if method.make is not None:
        given = [method.make(n) for n in range(NUMBER)]
        rows = folder / f"{method.make.__name__}.jsonl"
        if not rows.exists():
            rows.write_text("".join(json.dumps(record) + "\n" for record in given))
        data = f"{{type: records, source: {{type: files, files: {rows}}}, seq_len: 32}}"
        settings += [f"data={data}", f"data.task={{type: {method.task}}}"]
    try:
        if objective := method.objective:
            if "TEACHER" in objective:
                teacher = str(teacher_of(cell.model, folder))
                objective = objective.replace("TEACHER", f"'{teacher}'")
            settings.append(f"objective={{type: {objective}}}")
        run = jaxlm.train(load_run(file, settings).config)
        if method.then == "predict":
            assert len(run.predict(given[:3])) == 3
        else:
            assert run.evaluate()
    except UserError as error:
        return short(str(error).replace(str(run_dir), "a run").replace(str(folder), "..."))
    return ""


def short(text: str) -> str:
    """A line without the key's place in a file."""
    return re.sub(r"^\S+\.yaml:\d+: |^--?\S+: ", "", text).partition("\n")[0]


def quietly(cell: Cell, folder: Path) -> str:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return tried(cell, folder)
        except Exception:
            return FAILED + " | ".join(traceback.format_exc().strip().splitlines()[-2:])


def outcomes(cells: list[Cell]) -> Iterator[tuple[Cell, str]]:
    import jax
    from verbs import warm_programs

    logging.disable(logging.WARNING)
    gc.set_threshold(100_000, 20, 50)  # tracing makes many objects that stay
    jax.config.update("jax_disable_most_optimizations", True)  # two steps, sooner compiled
    try:
        with tempfile.TemporaryDirectory() as folder, warm_programs():
            for cell in cells:
                yield cell, quietly(cell, Path(folder))
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
        logging.disable(logging.NOTSET)


HEAD = """\
<!-- made by tools/combinations.py, which tries what the table says -->
# What combines with what

Each method was tried with each kind of model in {number} ways:
{adapters}.
A trial is a run of a tiny model: two steps of training, then predictions for some records, or an
evaluation. A check mark: all {number} work. Where only some work, their names follow the mark.
A number is the line below the table that refuses the combination, as a user sees it. A language
model is trained as its kind is: encoders predict masked tokens, encoder-decoders spans, GLMs
blanks, the others the next token.
"""


class Reasons:
    """The lines that refuse a cell, numbered as they come."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def mark(self, found: dict[str, str]) -> str:
        """A cell of the page, of {what was tried: why it is refused}."""
        works = [name for name, reason in found.items() if not reason]
        why = [reason for reason in dict.fromkeys(found.values()) if reason]
        numbers = [f"({self.numbers.setdefault(r, len(self.numbers) + 1)})" for r in why]
        named = [] if not works else ["✓"] if not why else [f"✓ {'; '.join(works)}"]
        return " ".join([*named, *numbers])


def page(found: dict[Cell, str]) -> str:
    reasons = Reasons()
    *first, last = ADAPTERS
    lines = [HEAD.format(adapters=f"{', '.join(first)} and {last}", number=len(ADAPTERS))]
    lines += [f"| | {' | '.join(MODELS)} |", "|---" * (len(MODELS) + 1) + "|"]
    for method in METHODS:
        every = [{a: found[Cell(method, model, a)] for a in ADAPTERS} for model in MODELS]
        lines.append(f"| {' | '.join([method, *map(reasons.mark, every)])} |")
    lines += ["", *(f"{number}. {reason}" for reason, number in reasons.numbers.items())]
    return "\n".join(lines).rstrip() + "\n"


def rows_of(text: str) -> dict[str, dict[str, str]]:
    """{method: {model: what its cell says}} of the page."""
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: dict(zip(MODELS, row[1:], strict=True)) for row in table if row[0] != "decoder"}


def says_works(cell: Cell, rows: dict[str, dict[str, str]]) -> bool:
    """Whether the page says that a cell works."""
    said = rows[cell.method][cell.model]
    names = re.sub(r" ?\(\d+\)", "", said).removeprefix("✓").strip()
    return said.startswith("✓") and (not names or cell.adapter in names.split("; "))


def check(number: int, seed: int) -> int:
    """Tries some cells; 1 where one is not as the page says."""
    rows = rows_of(PAGE.read_text(encoding="utf-8"))
    wrong = 0
    for cell, reason in outcomes(random.Random(seed).sample(CELLS, number)):
        print(f"{cell}: {reason or 'works'}")
        if says_works(cell, rows) == bool(reason) or reason.startswith(FAILED):
            print(f"{PAGE.name} says something else", file=sys.stderr)
            wrong = 1
    return wrong


def kept_in(file: Path | None) -> dict[Cell, str]:
    """The outcomes that a file has, of cells that did not fail."""
    if file is None or not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {Cell(*row[:3]): row[3] for row in rows if not row[3].startswith(FAILED)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", help="try the cells whose name matches, and print them")
    parser.add_argument("--kept", type=Path, help="a file of outcomes, which grows")
    parser.add_argument("--check", type=int, metavar="N", help="try N cells against the page")
    parser.add_argument("--seed", type=int, default=0, help="with --check: which cells")
    given = parser.parse_args()
    if given.check:
        return check(given.check, given.seed)
    cells = [cell for cell in CELLS if given.only is None or re.search(given.only, str(cell))]
    found = kept_in(given.kept)
    for cell, reason in outcomes([cell for cell in cells if cell not in found]):
        found[cell] = reason
        print(f"{cell}: {reason or 'works'}", flush=True)
        if given.kept is not None:
            with given.kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps([cell.method, cell.model, cell.adapter, reason]) + "\n")
    failed = [cell for cell in cells if found[cell].startswith(FAILED)]
    if given.only is None and not failed:
        PAGE.write_text(page(found), encoding="utf-8")
        print(f"wrote {PAGE}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
