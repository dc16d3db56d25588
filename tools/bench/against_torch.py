"""Times whole train steps against torch, float32 on one core: the same model, weights and batches.

    uv venv /tmp/torch && uv pip install -p /tmp/torch/bin/python torch transformers numpy
    python tools/bench/against_torch.py --torch /tmp/torch/bin/python --json steps.json
    python tools/bench/against_torch.py --torch /tmp/torch/bin/python --rows lstm gpt --sides eager
    python tools/bench/against_torch.py --rows gpt --sides flax  # without torch
    python tools/bench/against_torch.py --tiny                  # jaxlm and Flax, seconds

Each side is a process of its own, on the same core, and they take turns: A B A B. Figures are
CPU-seconds, since others may share the core. jaxlm is its real train step: loss, gradients, clip,
AdamW, the guard and the metrics. The sides of torch (`torch_side.py`) clip by
`clip_grad_norm_` and step by the fused AdamW:

    eager          modules written as nanoGPT's, with SDPA, or torch.nn.LSTM
    compile        the same under torch.compile
    transformers   the class of Hugging Face transformers, with SDPA
    flax           a GPT of plain Flax NNX and optax (`flax_side.py`), in jaxlm's own Python

The losses of the first 20 steps have to be equal to 1e-3; a row where they are not says so. The
share of the peak is a step's FLOPs (three forward passes) over what the core reaches in a matmul of
1,024 x 1,024, the best of both libraries in the same run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

EQUAL = 1e-3
BATCHES, WARM = 4, 2
HERE = Path(__file__).parent
TORCH = ("eager", "compile", "transformers")
SIDES = (*TORCH, "flax")


@dataclass(frozen=True)
class Row:
    """A model and the shape of its batches. kind: what `torch_side.py` builds."""

    kind: str
    width: int
    layers: int
    heads: int
    length: int
    batch: int
    vocab: int
    sides: tuple[str, ...] = SIDES
    source: int = 0  # tokens of a source, which an encoder reads


ROWS = {
    "gpt": Row("gpt", 384, 6, 6, 256, 4, 65),
    "gpt_16": Row("gpt", 384, 6, 6, 256, 16, 65),
    "gpt_vocab": Row("gpt", 384, 6, 6, 256, 4, 50_304),
    "gpt_16_vocab": Row("gpt", 384, 6, 6, 256, 16, 50_304),
    "gpt_768": Row("gpt", 768, 12, 12, 512, 4, 50_304),
    "gpt_4096": Row("gpt", 384, 6, 6, 4096, 1, 65, sides=("eager", "transformers")),
    "gpt_8192": Row("gpt", 384, 6, 6, 8192, 1, 65, sides=("eager", "transformers")),
    "lstm": Row("lstm", 650, 2, 0, 70, 64, 10_000, sides=("eager",)),
    "llama": Row("llama", 192, 4, 6, 256, 8, 2048, sides=("transformers",)),
    "bert": Row("bert", 512, 4, 8, 128, 16, 30_522, sides=("transformers",)),
    "t5": Row("t5", 512, 6, 8, 128, 8, 32_128, sides=("transformers",), source=128),
}
TINY = {
    "gpt": Row("gpt", 16, 1, 2, 8, 2, 17),
    "lstm": Row("lstm", 16, 2, 0, 8, 2, 17, sides=("eager",)),
    "llama": Row("llama", 24, 1, 6, 8, 2, 17, sides=("transformers",)),
    "bert": Row("bert", 16, 1, 2, 8, 2, 17, sides=("transformers",)),
    "t5": Row("t5", 16, 1, 2, 8, 2, 17, sides=("transformers",), source=8),
}


def batches(row: Row) -> list[dict[str, np.ndarray]]:
    """Random tokens from a skewed distribution, so that there is something to learn."""
    rng = np.random.default_rng(0)
    shape = (row.batch, row.length)
    found = []
    for _ in range(BATCHES):
        masked = row.kind == "bert"  # whose id 0 is padding, without a gradient in transformers
        least, count = (1, row.vocab - 2) if masked else (0, row.vocab)
        text = rng.random((row.batch, row.length + 1)) ** 3
        text = least + (count * text).astype(np.int32)
        weights = (rng.random(shape) < 0.15) if masked else np.ones(shape, bool)
        weights[0, 0] = True
        tokens, targets = text[:, :-1], text[:, 1:]
        if masked:
            tokens, targets = np.where(weights, row.vocab - 1, tokens), tokens
        made = {"tokens": tokens, "targets": targets, "loss_weights": weights.astype(np.float32)}
        if row.source:
            source = rng.random((row.batch, row.source)) ** 3
            made["source_tokens"] = (row.vocab * source).astype(np.int32)
        found.append(made)
    return found


# ----------------------------------------------------------------------------------- jaxlm's side


def jaxlm_side(row: Row, folder: Path) -> Mapping[str, Any]:
    """Compiles the step, and writes the weights by torch's names for the other sides."""
    import jax

    from jaxlm.distributed.memory import keep_freed_memory
    from jaxlm.mesh import MeshConfig, to_global_whole
    from jaxlm.optim.adamw import AdamW
    from jaxlm.training.learner import GradientLearner
    from jaxlm.training.program import make_program

    keep_freed_memory()
    model, objective, names = _jaxlm_model(row)
    program = make_program(
        mesh=MeshConfig(data=1, num_devices=1).build(),
        model=model,
        objective=objective,
        batch_size=row.batch,
    )
    learner = GradientLearner(program, AdamW(learning_rate=1e-3), 1_000)
    params = program.draw()
    config, arrays = names(jax.device_get(params))
    np.savez(folder / "weights.npz", **arrays)
    (folder / "config.json").write_text(json.dumps(config))

    counts = {name: np.full(row.batch, row.length, np.int32) for name in ("num_bytes", "num_chars")}
    rows = {**_places("", row.batch, row.length), **_places("source_", row.batch, row.source)}
    if row.kind not in ("bert", "t5"):
        rows |= counts
    data = [to_global_whole({**batch, **rows}, program.mesh) for batch in batches(row)]
    spec = {
        k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for k, x in data[0].items()
    }
    step, place = learner.compile(spec), itertools.cycle(data)
    state = learner.create(params)
    del params

    def steps(count: int) -> list[float]:
        nonlocal state
        found = []
        for _ in range(count):
            state, metrics = step(state, learner.frozen, next(place))
            found.append(metrics["objective"])
            jax.block_until_ready(found[-2:-1])  # as the loop reads them, one step late
        return [float(total) / float(weight) for total, weight in jax.device_get(found)]

    square = jax.numpy.ones((1024, 1024))
    matmul = jax.jit(lambda x: x @ x)
    flops = program.step_flops_per_token(row.length) * row.batch * row.length
    return {
        "steps": steps,
        "matmul": lambda: jax.block_until_ready(matmul(square)),
        "flops": flops,
        "parameters": sum(x.size for x in jax.tree.leaves(state["params"])),
    }


def _places(prefix: str, batch: int, length: int) -> dict[str, np.ndarray]:
    """Positions and segments of rows of one text each; none for no tokens."""
    if not length:
        return {}
    positions = np.tile(np.arange(length, dtype=np.int32), (batch, 1))
    return {f"{prefix}positions": positions, f"{prefix}segment_ids": np.ones_like(positions)}


def _jaxlm_model(row: Row) -> tuple[Any, Any, Callable[[Any], tuple[dict, dict]]]:
    """(the model, its objective, a function of the parameters: config and weights by torch's
    names).
    """
    from jaxlm.core.tree import flatten
    from jaxlm.models.families import bert, family_of, gpt2, t5
    from jaxlm.models.families.shared.table import locate, write_tensors
    from jaxlm.models.rnn import RNNConfig
    from jaxlm.models.transformer import TransformerConfig
    from jaxlm.nn.attention import MultiHeadConfig
    from jaxlm.objectives.causal_lm import CausalLM
    from jaxlm.objectives.masked_lm import MaskedLM
    from jaxlm.objectives.seq2seq import Seq2Seq

    if row.kind == "lstm":
        rnn = RNNConfig(hidden_size=row.width, num_layers=row.layers, vocab_size=row.vocab)
        return rnn, CausalLM(), lambda params: ({}, _lstm_names(flatten(params)))
    if row.kind == "gpt":
        model = gpt2.gpt2(row.width, row.layers, row.heads, positions=row.length)
    elif row.kind == "bert":
        model = bert.bert(row.width, row.layers, row.heads, row.vocab)
        model = model.replace(head=bert.heads("bert", "gelu")["BertForMaskedLM"])
    elif row.kind == "t5":
        size = row.width // row.heads
        model = t5.preset(row.width, row.layers, row.heads, size, 4 * row.width)
        model = model.replace(encoder=model.encoder.replace(dtype="float32"))
    else:
        attention = MultiHeadConfig(num_heads=row.heads, num_kv_heads=row.heads // 2)
        model = TransformerConfig(
            hidden_size=row.width, num_layers=row.layers, attention=attention, family="llama"
        )
    model = model.replace(vocab_size=row.vocab, dtype="float32")
    of = family_of(model.family)

    def names(params: Any) -> tuple[dict, dict]:
        flat = flatten(params)
        pieces = locate(of.tensors(model), {path: x.shape for path, x in flat.items()})
        return of.to_hf(model), dict(write_tensors(pieces, flat.__getitem__))

    objective = {"bert": MaskedLM(), "t5": Seq2Seq(start=0, source_share=1.0)}
    return model, objective.get(row.kind, CausalLM()), names


def _lstm_names(flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights by the names of torch.nn.LSTM, whose rows are the gates i, f, g, o as ours."""
    found = {"embed": flat["embed/table"], "bias": flat["unembed/bias"]}
    for layer, kernel in enumerate(flat["layers/cell/input/kernel"]):
        found[f"weight_ih_l{layer}"] = kernel.T
        found[f"weight_hh_l{layer}"] = flat["layers/cell/recurrent/kernel"][layer].T
        found[f"bias_ih_l{layer}"] = flat["layers/cell/input/bias"][layer]
    return found


# ------------------------------------------------------------------------------------- a process


def serve(side: Mapping[str, Any]) -> None:
    """Answers the parent's lines: {"steps": n} or {"matmul": n}; CPU-seconds and memory."""
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # noqa: E731
    answer = {k: v for k, v in side.items() if isinstance(v, int | float)}
    print(json.dumps({**answer, "before": peak()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        cpu, wall = time.process_time(), time.perf_counter()
        losses = side["steps"](asked["steps"]) if "steps" in asked else None
        for _ in range(asked.get("matmul", 0)):
            side["matmul"]()
        took = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(json.dumps({**took, "losses": losses, "peak": peak()}), flush=True)


class Process:
    """A side in a process of its own."""

    def __init__(self, python: str, script: str, side: str, given: str, core: int) -> None:
        command = [python, str(HERE / script), "--side", side, given]
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
        threads = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        self.told = self._read()
        self.losses: list[float] = []
        self.cpu: list[float] = []
        self.peak = 0

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.process.args}: ended; its message is above")

    def ask(self, **asked: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        found = self._read()
        self.losses += found["losses"] or []
        self.peak = found["peak"]
        return found

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(name: str, row: Row, sides: tuple[str, ...], options: Any) -> dict[str, Any]:
    """The figures of a row."""
    core = min(os.sched_getaffinity(0)) if options.core is None else options.core
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "row.json").write_text(json.dumps(row.__dict__))
        data = {f"{k}_{i}": x for i, b in enumerate(batches(row)) for k, x in b.items()}
        np.savez(folder / "batches.npz", **data)
        running = {"jaxlm": Process(sys.executable, "against_torch.py", "jaxlm", made, core)}
        for side in sides:
            of_torch = side in TORCH
            python = options.torch if of_torch else sys.executable
            script = "torch_side.py" if of_torch else f"{side}_side.py"
            running[side] = Process(python, script, side, made, core)
        try:
            return _measured(name, running, options)
        finally:
            for process in running.values():
                process.end()


def _measured(name: str, running: dict[str, Process], options: Any) -> dict[str, Any]:
    each = 1 if options.tiny else options.steps
    rounds = 1 if options.tiny else options.rounds
    rates = []
    for process in running.values():
        process.ask(steps=WARM)
        process.ask(matmul=1)
    for _ in range(rounds):
        for process in running.values():
            process.cpu.append(max(process.ask(steps=each)["cpu"], 1e-9) / each)
            rates.append(2 * 1024**3 / max(process.ask(matmul=1)["cpu"], 1e-6))
    for process in running.values():
        if len(process.losses) < options.losses and len(running) > 1:
            process.ask(steps=options.losses - len(process.losses))
    ours, peak = running["jaxlm"], max(rates)
    told = ours.told
    row: dict[str, Any] = {
        "name": name,
        "unit": "steps",
        "parameters": told["parameters"],
        "losses": options.losses,
        "matmul_peak": peak,
        "cpu_seconds": {s: statistics.median(p.cpu) for s, p in running.items()},
        "peak_bytes": {s: p.peak for s, p in running.items()},
        "grown_bytes": {s: p.peak - p.told["before"] for s, p in running.items()},
        "ratio": {
            s: statistics.median(b / a for a, b in zip(ours.cpu, p.cpu, strict=True))
            for s, p in running.items()
            if p is not ours
        },
        "largest_difference": {
            s: max(
                abs(a / b - 1)
                for a, b in zip(ours.losses[: options.losses], p.losses, strict=False)
            )
            for s, p in running.items()
            if p is not ours
        },
    }
    row["per_second"] = {s: 1 / x for s, x in row["cpu_seconds"].items()}
    row["share_of_peak"] = {s: told["flops"] / x / peak for s, x in row["cpu_seconds"].items()}
    row["equal"] = all(x <= EQUAL for x in row["largest_difference"].values())
    return row


def show(row: Mapping[str, Any]) -> None:
    print(f"{row['name']}: {row['parameters'] / 1e6:.1f} M parameters; a matmul reaches", end=" ")
    print(f"{row['matmul_peak'] / 1e9:.0f} GFLOP/s")
    for side, seconds in row["cpu_seconds"].items():
        line = f"  {side:14} {seconds * 1e3:9.1f} ms  {row['share_of_peak'][side]:5.2f} of the peak"
        line += f"  {row['peak_bytes'][side] / 2**20:7,.0f} MiB"
        if side in row["ratio"]:
            line += f"  this / jaxlm: {row['ratio'][side]:.2f}"
            line += f"  losses differ by {row['largest_difference'][side]:.1e}"
        print(line)
    if not row["equal"]:
        print(f"  the losses are not equal to {EQUAL}: this row compares different computations")


def main(words: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--torch", help="the Python that has torch; none: no side of it")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, default=["eager", "transformers", "flax"]
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side (default 7)")
    parser.add_argument("--steps", type=int, default=3, help="steps in a turn (default 3)")
    parser.add_argument("--losses", type=int, default=20, help="losses compared (default 20)")
    parser.add_argument("--core", type=int, help="the core of all sides; the first by default")
    parser.add_argument("--tiny", action="store_true", help="a size of a second, to see it work")
    parser.add_argument("--json", help="also write the result to this file")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.side:
        folder = Path(options.folder)
        row = Row(**json.loads((folder / "row.json").read_text()))
        serve(jaxlm_side(row, folder))
        return []
    found = []
    for name in options.rows:
        if options.tiny and name not in TINY:
            continue
        row = (TINY if options.tiny else ROWS)[name]
        here = [side for side in options.sides if options.torch or side not in TORCH]
        sides = tuple(side for side in here if side in row.sides)
        found.append(compare(name, row, sides, options))
        show(found[-1])
        if options.json:
            text = json.dumps({"name": "against_torch", "rows": found}, indent=1)
            Path(options.json).write_text(text + "\n")
    return found


if __name__ == "__main__":
    main()
