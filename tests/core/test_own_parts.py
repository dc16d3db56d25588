"""Parts outside of the package train, are resumed, evaluated and used, with nothing added to it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
import yaml

from jaxlm.cli import main
from jaxlm.core.config import UserError
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.training.compatibility import check_fit

OWN = '''
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlm.core.config import field
from jaxlm.core.rows import Entry, RowSpec, text_rows
from jaxlm.data.augment.base import Augment
from jaxlm.data.sources.base import Document, Source, Unit
from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.core.types import TokenizerConfig
from jaxlm.optim.optimizer import OptimizerConfig
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


class Shifted(ByteTokenizer):
    pass


@dataclass(frozen=True, kw_only=True)
class Shift(TokenizerConfig):
    """Bytes of its own."""

    def build(self, texts, corpus_fingerprint, cache_dir):
        return Shifted()


@dataclass(frozen=True, kw_only=True)
class Counting(Source):
    """Documents that count."""

    upto: int = field(50, "documents", ge=1)

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
class Doubling(Augment):
    """Another number in front."""

    def __call__(self, text, rng):
        return f"{rng.randint(9)} {text}"
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The working folder with a module of parts, beside a package that names one as well."""
    (tmp_path / "own_parts_here.py").write_text(OWN)
    info = tmp_path / "site" / "doubling-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: doubling\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[jaxlm.sources]\ncounting = own_parts_here:Counting\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    yield tmp_path
    sys.modules.pop("own_parts_here", None)


def test_own_parts_train_are_resumed_evaluated_and_used(own, capsys):
    parts = (
        "objective={type: own_parts_here:Doubled, times: 3}",
        "optimizer={type: own_parts_here:Signs}",
        "data={type: records, source: {type: counting, upto: 60}, seq_len: 32}",
        "data.task={type: own_parts_here:CountOn}",
        "data.augment=[{type: own_parts_here:Doubling}]",
        "tokenizer={type: own_parts_here:Shift}",
    )
    run = own / "run"
    few = ("train.steps=2", "eval.every_steps=null", "eval.max_batches=1", "mesh.num_devices=1")
    rest = ("logging.tensorboard=false", f"cache_dir={own / 'cache'}", f"run_dir={run}")
    config = str(tiny.SMOKE / "transformer.yaml")
    assert main(["config", "show", config, *parts]) == 0
    assert "own_parts_here:Doubled" in capsys.readouterr().out
    assert main(["train", config, *parts, *few, *rest]) == 0
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert [saved[key]["type"] for key in ("objective", "optimizer")] == [
        "own_parts_here:Doubled",
        "own_parts_here:Signs",
    ]
    kept = json.loads((run / "tokenizer" / "jaxlm_tokenizer.json").read_text())
    assert kept["kind"] == "own_parts_here:Shifted"
    assert saved["objective"]["times"] == 3 and saved["data"]["source"]["type"] == "counting"
    assert saved["data"]["task"]["type"] == "own_parts_here:CountOn"
    # what a field of a base class may change stays so in a part of one's own
    assert main(["resume", str(run), "train.steps=3", "optimizer.learning_rate=1e-4"]) == 0
    assert main(["eval", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "doubled" in shown
    assert main(["generate", str(run), "--prompt", "1 2", "--max-tokens", "4"]) == 0
    capsys.readouterr()
    assert main(["parts", "objectives"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Doubled" in line]
    assert line.split()[0] == "own_parts_here:Doubled" and "[module own_parts_here.py]" in line


def test_rows_without_a_key_that_an_objective_needs_are_one_line():
    @dataclass(frozen=True, kw_only=True)
    class Odd(CausalLM):
        needs = ("tokens", "trees")

    config = tiny.load("transformer").config
    with pytest.raises(
        UserError, match="needs trees, and data.type text gives tokens, segment_ids"
    ):
        check_fit(config.replace(objective=Odd()))
