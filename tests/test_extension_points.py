"""Parts of one's own train, are killed, resumed, evaluated, used and reported, from one folder.

`toys.py` is what a user writes: one class for each seam. Nothing of it is known to the package.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import tiny
import yaml
from flax import nnx

from jaxlm import api
from jaxlm.cli import main
from jaxlm.core.config import UserError
from jaxlm.models.transformer import Transformer
from jaxlm.nn.position import NoPositionConfig
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.training.compatibility import check_fit
from tests.commands import Commands, result, use_environment

TOYS = '''
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxlm.adapters.base import Adapter
from jaxlm.core.callback import Callback
from jaxlm.core.config import field
from jaxlm.core.evaluator import Evaluator
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry, RowSpec, text_rows
from jaxlm.core.tree import flatten
from jaxlm.core.types import Output, PositionConfig, TokenizerConfig
from jaxlm.data.augment.base import Augment
from jaxlm.data.sources.base import Document, Source, Unit
from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.objectives.base import Loss
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.counting import Counting
from jaxlm.optim.base import OptimizerConfig
from jaxlm.report.sections.base import Section
from jaxlm.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class Doubled(CausalLM):
    """Predict the next token; the loss counts twice."""

    times: float = field(2.0, "how often the loss counts")

    def loss(self, model, batch, *, key, cache):
        out = super().loss(model, batch, key=key, cache=cache)
        own = {"doubled": (self.times * out.loss_sum, out.weight)}
        return out._replace(loss_sum=self.times * out.loss_sum, metrics={**out.metrics, **own})


@dataclass(frozen=True, kw_only=True)
class Signs(OptimizerConfig):
    """The sign of the gradient."""

    learning_rate: float = field(1e-3, "the peak learning rate", gt=0)

    def direction(self, axes):
        return optax.stateless(lambda updates, _: jax.tree.map(jnp.sign, updates))


class OwnBytes(ByteTokenizer):
    pass


@dataclass(frozen=True, kw_only=True)
class Tokens(TokenizerConfig):
    """Bytes of its own."""

    def build(self, texts, corpus_fingerprint, cache_dir):
        return OwnBytes()


@dataclass(frozen=True, kw_only=True)
class Numbers(Source):
    """Texts that count."""

    upto: int = field(50, "texts", ge=1)

    def units(self):
        return [Unit("count", 0, self)]

    def contents(self):
        return iter(())

    def read(self, unit, counts):
        for number in range(self.upto):
            yield Document(" ".join(str(number + n) for n in range(9)), f"count:{number}")


@dataclass(frozen=True, kw_only=True)
class CountOn(Task):
    """Read a number, write those that follow."""

    columns = ("text",)
    augmented = ("text",)

    def identity(self, record):
        return record["text"]

    def texts(self, record):
        return [record["text"]]

    def row_spec(self, seq_len, pad_id=0):
        entries = {**text_rows(seq_len + 1, pad_id), "loss_weights": Entry(("T",), np.float32)}
        return RowSpec(entries, T=seq_len + 1)

    def encode(self, record, tokenizer, room, rng=None):
        first, *rest = record["text"].split(" ")
        given, asked = tokenizer.encode(first), tokenizer.encode(" " + " ".join(rest))
        weights = np.repeat([0, 1], [len(given), len(asked)])
        return {"tokens": [*given, *asked][:room], "loss_weights": weights[:room]}


@dataclass(frozen=True, kw_only=True)
class Prefixed(Augment):
    """Another number in front."""

    def __call__(self, text, rng):
        return f"{rng.randint(9)} {text}"


@dataclass(frozen=True, kw_only=True)
class Shifts(Adapter):
    """Train the norms, and a vector that is added to the embedding."""

    def apply(self, model, *, rngs):
        model.shift = nnx.Param(jnp.ones(model.config.hidden_size), axes=("embed",))

    def trains(self, path):
        return "norm" in path or path == "shift"


@dataclass(frozen=True, kw_only=True)
class Norm(Evaluator):
    """How large the trained vector is."""

    def measure(self, session, params, max_batches):
        size = float(jnp.abs(params["shift"]).sum())
        return [Measure("size", size, better="lower", show="headline")]


@dataclass(frozen=True, kw_only=True)
class Die(Callback):
    """Kills the process after a step, the first time that it comes to it."""

    step: int = field(1, "the step after which the process is killed", ge=1)
    marker: str = field("died", "the file that keeps it from being killed again")

    def on_step(self, run, step, metrics):
        run.log(step, [Measure("own/twice", 2 * metrics["tokens"])])
        if step == self.step and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Notes(Section):
    """What the user wrote about the run."""

    title: ClassVar = "Notes"
    order: ClassVar = 45
    template: ClassVar = "<p>{{ text }}</p>"

    def data(self, run):
        return {"text": "written by <a person>"}


class Table(nnx.Module):
    def __init__(self, shape, axes, rngs):
        self.table = nnx.Param(jax.random.normal(rngs.params(), shape), axes=axes)


@dataclass(frozen=True, kw_only=True)
class Clock(PositionConfig):
    """A learned vector for each position of a period, added to the embedding."""

    period: int = field(4, "positions after which the vectors repeat", ge=1)

    def build(self, dim, num_heads, **options):
        return Table((self.period, dim), ("pos", "embed"), options["rngs"])

    def add(self, x, positions, module, **rows):
        return x + module.table.get_value()[positions % self.period]


@dataclass(frozen=True, kw_only=True)
class Slopes(PositionConfig):
    """A learned slope for each head: scores fall with the distance."""

    has_bias = True

    def build(self, dim, num_heads, **options):
        return Table((num_heads,), ("heads",), options["rngs"])

    def bias(self, module, causal):
        return jax.tree_util.Partial(fall, module.table.get_value())


def fall(slopes, q_positions, k_positions):
    distance = q_positions[:, :, None] - k_positions[:, None]
    return -slopes[:, None, None] * distance[:, None]


class Counts(nnx.Module):
    """[V, V]: how often each token follows each other one."""

    def __init__(self, size):
        self.counts = nnx.Param(jnp.zeros((size, size)), axes=("pos", "vocab"))

    def __call__(self, tokens, *, positions, segment_ids, cache=None, encoded=None, key=None):
        return Output(self.counts.get_value()[tokens], cache)

    def logits(self, hidden):
        return jnp.log(hidden + 1)

    def init_cache(self, batch_size, max_len, encoded=None):
        return {"nothing": jnp.zeros((batch_size, 1))}


@dataclass(frozen=True, kw_only=True)
class Bigrams(Counting):
    """How often each token follows each other token."""

    def why_silent(self, model):
        return None

    def build_model(self, model, *, rngs):
        return Counts(model.vocab_size)

    def host_transform(self, tokenizer, seed):
        return CausalLM().host_transform(tokenizer, seed)

    def transform_spec(self, rows):
        return CausalLM().transform_spec(rows)

    def flops_per_token(self, model, seq_len):
        return 0.0

    def count(self, tables, batch):
        at = tables["counts"].at[batch["tokens"], batch["targets"]]
        return {"counts": at.add(batch["loss_weights"])}

    def loss(self, model, batch, *, key, cache):
        counts = model.counts.get_value() + 1
        found = counts[batch["tokens"], batch["targets"]] / counts.sum(-1)[batch["tokens"]]
        total, weight = (-jnp.log(found) * batch["loss_weights"]).sum(), batch["loss_weights"].sum()
        return Loss(total, weight, {"loss": (total, weight)}, None)
'''

SMOKE = tiny.SMOKE / "transformer.yaml"
OWN = f"""
include: {SMOKE}
tokenizer: {{type: "toys:Tokens"}}
data:
  type: records
  source: {{type: numbers, upto: 60}}
  task: {{type: "toys:CountOn"}}
  augment: [{{type: "toys:Prefixed"}}]
  seq_len: 32
model: {{position: {{type: "toys:Clock", period: 5}}}}
objective: {{type: "toys:Doubled", times: 3}}
optimizer: {{type: "toys:Signs"}}
adapter: {{type: "toys:Shifts"}}
evaluators:
  norm: {{type: "toys:Norm", every_steps: 2}}
callbacks: [{{type: "toys:Die", step: 3}}]
train: {{steps: 4}}
eval: {{every_steps: 2, max_batches: 1}}
checkpoint: {{every_steps: 2}}
logging: {{tensorboard: false}}
"""
COUNTED = f"""
include: {SMOKE}
data: {{seq_len: 32}}
objective: {{type: "toys:Bigrams"}}
optimizer: null
sample: {{prompts: []}}
callbacks: [{{type: "toys:Die", step: 3}}]
train: {{steps: 4}}
eval: {{every_steps: 2, max_batches: 1}}
checkpoint: {{every_steps: 2}}
logging: {{tensorboard: false}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a user, with an installed package that names two of its parts."""
    here = tmp_path_factory.mktemp("own")
    assert jax.device_count() == 8  # those of this process, before its environment changes
    (here / "toys.py").write_text(TOYS)
    (here / "own.yaml").write_text(OWN)
    (here / "counted.yaml").write_text(COUNTED)
    info = here / "toys-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[jaxlm.sources]\nnumbers = toys:Numbers\n[jaxlm.report_sections]\nnotes = toys:Notes\n"
    )
    with pytest.MonkeyPatch.context() as patch, use_environment(here / "cache"):
        patch.chdir(here)
        patch.syspath_prepend(str(here))
        patch.setenv("PYTHONPATH", str(here))
        yield here
    sys.modules.pop("toys", None)


@pytest.fixture(scope="module")
def commands(folder: Path) -> Commands:
    return Commands(folder)


@pytest.fixture(scope="module", params=["own", "counted"])
def run(request: pytest.FixtureRequest, folder: Path, commands: Commands) -> Path:
    """A run that was killed after its third step and resumed from its second."""
    name = request.param
    (folder / "died").unlink(missing_ok=True)
    code, shown = commands.run("train", f"{name}.yaml")
    assert code == -9, shown
    run = Path("runs") / name
    assert not (run / "result.json").exists()
    code, shown = commands.run("resume", run)
    assert code == 0, shown
    return run


def test_a_killed_run_ends_in_the_same_weights(run: Path, commands: Commands) -> None:
    code, shown = commands.run("train", f"{run.name}.yaml", f"run_dir=whole-{run.name}")
    assert code == 0, shown
    whole = result(Path(f"whole-{run.name}"))
    assert result(run)["final"]["param_sha256"] == whole["final"]["param_sha256"]


def test_parts_of_ones_own_are_kept_in_the_config(run: Path) -> None:
    saved = yaml.safe_load((run / "config.yaml").read_text())
    parts = yaml.safe_load(Path(f"{run.name}.yaml").read_text())
    for key in ("tokenizer", "objective", "optimizer", "adapter"):
        if parts.get(key):
            assert saved[key]["type"] == parts[key]["type"]
    assert [part["type"] for part in saved["callbacks"]] == ["toys:Die"]
    if run.name == "own":
        assert saved["objective"]["times"] == 3
        assert saved["data"]["task"]["type"] == "toys:CountOn"
        kept = json.loads((run / "tokenizer" / "jaxlm_tokenizer.json").read_text())
        assert kept["kind"] == "toys:OwnBytes"


def test_what_the_parts_measure_is_logged_and_reported(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    keys = {key for line in lines for key in line}
    page = (run / "report.html").read_text()
    assert "own/twice" in keys
    assert "written by &lt;a person&gt;" in page
    if run.name == "own":
        assert {"eval/norm/size", "eval/doubled", "final/norm/size"} <= keys
        assert result(run)["final"]["eval/norm/size"] > 0
        assert "doubled" in page and "norm size" in page


def test_a_run_of_one_device_is_measured_on_eight(run: Path) -> None:
    """The frozen parameters are drawn again on another mesh, to the bit."""
    found = api.load(run)
    assert found.evaluate()["eval/loss"] == pytest.approx(result(run)["final"]["eval/loss"], 1e-5)
    assert found.program.mesh.size == 8


def test_the_verbs_use_parts_of_ones_own(run: Path, commands: Commands) -> None:
    def shown(*words: object) -> str:
        code, text = commands.run(*words)
        assert code == 0, text
        return text

    evaluated = shown("eval", run)
    shown("report", run)
    assert shown("generate", run, "--prompt", "1 2", "--max-tokens", "4", "--temperature", "0")
    if run.name == "own":
        assert "doubled" in evaluated
        # what a field of a base class may change stays so in a part of one's own
        shown("resume", run, "train.steps=5", "optimizer.learning_rate=1e-4")


def test_parts_of_ones_own_are_listed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("toys")
    assert main(["parts", "objectives"]) == 0
    listed = capsys.readouterr().out.splitlines()
    (line,) = [line for line in listed if "Doubled" in line]
    assert line.split()[0] == "toys:Doubled" and "[module toys.py]" in line


@pytest.mark.parametrize("name", ["Clock", "Slopes"])
def test_positions_of_ones_own_reach_the_logits(folder: Path, name: str) -> None:
    """Their parameters have gradients, and one alone is for all layers."""
    position = getattr(importlib.import_module("toys"), name)()
    config = tiny.load("transformer").config.model.replace(position=(position,))
    tokens = jnp.array([[3, 5, 3, 9, 3, 5]])
    order = jnp.arange(6)[None]

    def logit(model: Transformer) -> jax.Array:
        hidden = model(tokens, positions=order, segment_ids=jnp.ones_like(tokens)).hidden
        return model.logits(hidden)[0, -1, 0]

    @jax.jit  # one program, which is sooner compiled than each operation by itself
    def gradient() -> jax.Array:
        found = nnx.grad(logit)(config.build(16, rngs=nnx.Rngs(0)))
        return found["position"]["table"].get_value()

    assert jnp.abs(gradient()).min() > 0
    with pytest.raises(UserError, match=f"position: toys:{name} cannot be cycled"):
        config.replace(position=(NoPositionConfig(), position)).validate()


def test_rows_without_a_key_that_an_objective_needs_are_one_line() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Odd(CausalLM):
        needs = ("tokens", "trees")

    config = tiny.load("transformer").config
    with pytest.raises(
        UserError, match="needs trees, and data.type text gives tokens, segment_ids"
    ):
        check_fit(config.replace(objective=Odd()))
