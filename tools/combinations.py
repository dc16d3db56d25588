"""Writes docs/combinations.md: what combines with what, each cell tried at a tiny size.

    python tools/combinations.py                      # all: about half an hour on two cores
    python tools/combinations.py --only "dpo|lora"    # cells whose name matches, to the terminal
    python tools/combinations.py --check 6 --seed 1   # tries six cells, and compares with the page

A cell is a task or method, a kind of model and an adapter: two steps of training, then what the
task is for: predictions for its records, or an evaluation. What is refused is refused by one line,
which the page gives.
"""

from __future__ import annotations

import argparse
import contextlib
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jaxlm
from jaxlm.core.config import UserError
from jaxlm.run import load_run

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "combinations.md"
SMOKE = ROOT / "configs" / "smoke"

# {how the page calls a kind of model: (the smoke config that has it, what rows of records need)}
MODELS = {
    "decoder": ("transformer", ()),
    "mixture of experts": ("moe", ()),
    "encoder": ("bert", ()),
    "encoder-decoder": ("t5", ()),
    "GLM": ("glm", ()),
    "LSTM": ("lstm", ("model.carry_state=false",)),
}
ADAPTERS = {
    "all parameters": "null",
    "freeze": "{type: freeze, train: [norm, bias]}",
    "LoRA": "{type: lora, rank: 2, targets: [all-linear]}",
    "QLoRA": "{type: lora, rank: 2, targets: [all-linear], base_weights: nf4}",
    "DoRA": "{type: dora, rank: 2, targets: [all-linear]}",
}
WORDS = ("Ana", "Bo", "Chen", "Dee", "Eva")
NUMBER = 24  # records


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
    return {"document": f"{WORDS[n % 5]} met {WORDS[n % 3]}. All left.", "summary": WORDS[n % 5]}


def texts(n: int) -> dict[str, Any]:
    return {"text": f"{WORDS[n % 5]} met {WORDS[n % 3]}"}


def preferences(n: int) -> dict[str, Any]:
    return {"prompt": f"{n}+1=", "chosen": str(n + 1), "rejected": str(n + 2)}


def verdicts(n: int) -> dict[str, Any]:
    return {"prompt": f"{n}+1=", "completion": str(n + 1 + n % 2), "label": n % 2 == 0}


@dataclass(frozen=True)
class Method:
    """A task or method: its records, the task and the objective of the config; None: the model's
    own objective on running text. then: what is done with the trained run.
    """

    make: Any = None
    task: str = ""
    objective: str = ""
    more: tuple[str, ...] = field(default=())
    then: str = "predict"


METHODS = {
    "language model": Method(then="evaluate"),
    "classification": Method(classes, "classification", "classification"),
    "multi-label": Method(labels, "multi_label", "multi_label"),
    "regression": Method(numbers, "regression", "regression"),
    "pairs": Method(pairs, "pair", "classification"),
    "tagging": Method(tags, "tagging", "tagging"),
    "question answering": Method(questions, "question_answering", "question_answering"),
    "chat": Method(talks, "chat, template: plain", "causal_lm"),
    "prompt and completion": Method(completions, "prompt_completion", "causal_lm"),
    "translation, one text": Method(translations, "translation", "causal_lm"),
    "translation, encoder": Method(translations, "translation, encoder: true", "seq2seq"),
    "summaries, one text": Method(summaries, "summarisation", "causal_lm"),
    "summaries, encoder": Method(summaries, "summarisation, encoder: true", "seq2seq"),
    "masked fill": Method(texts, "fill_mask", "masked_lm"),
    "DPO": Method(preferences, "preference", "dpo", then="evaluate"),
    "ORPO": Method(preferences, "preference", "orpo", then="evaluate"),
    "SimPO": Method(preferences, "preference", "simpo", then="evaluate"),
    "reward model": Method(preferences, "preference", "reward", then="evaluate"),
    "KTO": Method(verdicts, "kto", "kto", then="evaluate"),
    "GRPO": Method(
        completions, "prompt_completion", "grpo, group_size: 4, max_tokens: 4", then="evaluate"
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


def tried(cell: Cell, folder: Path) -> str:
    """ "" for a cell that works, else the line that refuses it. Other failures are raised."""
    method = METHODS[cell.method]
    run_dir = folder / re.sub(r"\W+", "_", str(cell))
    settings = [
        f"adapter={ADAPTERS[cell.adapter]}",
        "train.steps=2",
        "train.batch_size=8",
        "train.epochs=null",
        "optimizer.schedule.warmup=1",
        "logging.tensorboard=false",
        "sample.prompts=[]",
        "eval.every_steps=null",
        "checkpoint.every_steps=null",
        "mesh.num_devices=1",
        f"run_dir={run_dir}",
        f"cache_dir={folder}/cache",
    ]
    smoke, own = MODELS[cell.model]
    given: list[dict[str, Any]] = []
    if method.make is not None:
        given = [method.make(n) for n in range(NUMBER)]
        file = folder / f"{method.make.__name__}.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in given))
        data = f"{{type: records, source: {{type: files, files: {file}}}, seq_len: 32}}"
        settings += [f"data={data}", f"data.task={{type: {method.task}}}"]
        settings += [f"objective={{type: {method.objective}}}", *own]
    try:
        config = load_run(SMOKE / f"{smoke}.yaml", [*settings, *method.more]).config
        run = jaxlm.train(config)
        if method.then == "predict":
            assert len(run.predict(given[:3])) == 3
        else:
            assert run.evaluate()
    except UserError as error:
        return short(str(error).replace(str(folder), "..."))
    return ""


def short(text: str) -> str:
    """A line without the key's place in a file."""
    return re.sub(r"^\S+\.yaml:\d+: |^--?\S+: ", "", text).partition("\n")[0]


def quietly(cell: Cell, folder: Path) -> str:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return tried(cell, folder)
        except Exception:
            return "FAILED: " + " | ".join(traceback.format_exc().strip().splitlines()[-2:])


def outcomes(cells: list[Cell]) -> Iterator[tuple[Cell, str]]:
    from verbs import warm_programs

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, warm_programs():
        for cell in cells:
            yield cell, quietly(cell, Path(folder))


HEAD = """\
<!-- made by tools/combinations.py, which tries every cell; edit that -->
# What combines with what

A check mark is a run of two steps at a tiny size, and then predictions or an evaluation, with
each of: {adapters}. Otherwise the cell lists what works. A number is the
reason below the table: the line that refuses the combination.
"""


def page(found: dict[Cell, str]) -> str:
    reasons: dict[str, int] = {}
    lines = [HEAD.format(adapters=", ".join(ADAPTERS))]
    lines += [f"| | {' | '.join(MODELS)} |", "|---" * (len(MODELS) + 1) + "|"]
    for method in METHODS:
        cells = []
        for model in MODELS:
            own = {adapter: found[Cell(method, model, adapter)] for adapter in ADAPTERS}
            works = [adapter for adapter, reason in own.items() if not reason]
            why = [reason for reason in dict.fromkeys(own.values()) if reason]
            numbers = [f"{reasons.setdefault(reason, len(reasons) + 1)}" for reason in why]
            named = "✓" if len(works) == len(ADAPTERS) else ", ".join(works)
            cells.append(" ".join([named, *(f"({n})" for n in numbers)]).strip())
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {reason}" for reason, number in reasons.items())]
    return "\n".join(lines).rstrip() + "\n"


def check(number: int, seed: int) -> int:
    """Tries some cells; 1 where one is not as the page says."""
    text = PAGE.read_text(encoding="utf-8")
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    rows = {row[0]: dict(zip(MODELS, row[1:], strict=True)) for row in table[1:]}
    wrong = 0
    for cell, reason in outcomes(random.Random(seed).sample(CELLS, number)):
        said = rows[cell.method][cell.model]
        named = [name.strip() for name in re.sub(r"\(\d+\)", "", said).split(", ")]
        works = said.startswith("✓") or cell.adapter in named
        print(f"{cell}: {reason or 'works'}")
        if works == bool(reason) or reason.startswith("FAILED"):
            print(f"{PAGE.name} says {said}", file=sys.stderr)
            wrong = 1
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", help="try the cells whose name matches, and print them")
    parser.add_argument("--check", type=int, metavar="N", help="try N cells against the page")
    parser.add_argument("--seed", type=int, default=0, help="with --check: which cells")
    given = parser.parse_args()
    if given.check:
        return check(given.check, given.seed)
    cells = [cell for cell in CELLS if given.only is None or re.search(given.only, str(cell))]
    found = {}
    for cell, reason in outcomes(cells):
        found[cell] = reason
        print(f"{len(found)}/{len(cells)} {cell}: {reason or 'works'}", flush=True)
    failed = [cell for cell, reason in found.items() if reason.startswith("FAILED")]
    if given.only is None and not failed:
        PAGE.write_text(page(found), encoding="utf-8")
        print(f"wrote {PAGE}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
