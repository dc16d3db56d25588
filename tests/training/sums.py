"""Sums of small numbers as prompts and completions, and runs of four steps on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests import tiny


def write(path: Path) -> Path:
    """15 records, as JSON lines."""
    pairs = [(a, b) for a in range(5) for b in (1, 2, 3)]
    records = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a, b in pairs]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def load(path: Path, run: Path, *changes: str) -> Any:
    """The config of a run with a checkpoint after each step."""
    source = f"{{type: jsonl, files: {path}}}"
    return tiny.load(
        "transformer",
        f"data={{type: records, source: {source}, seq_len: 16, task: {{type: prompt_completion}}}}",
        "train.steps=4",
        "train.batch_size=8",
        "eval.every_steps=null",
        "eval.at_end=false",
        "sample.prompts=[]",
        "checkpoint.every_steps=1",
        "checkpoint.keep_last=9",
        "logging.tensorboard=false",
        f"run_dir={run}",
        *changes,
    )
