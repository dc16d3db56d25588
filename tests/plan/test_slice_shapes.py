"""The shapes of slices, and what a misspelled topology probably meant."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from jaxlm.cli import main
from jaxlm.core.chips import CHIPS
from jaxlm.core.config import UserError
from jaxlm.data.tokenizers.base import Bytes
from jaxlm.plan.devices import CHIPS as PLANNED
from jaxlm.plan.devices import Topology
from jaxlm.plan.slice_shapes import meant, offered, shape_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v5p-128", "v5p:4x4x4"),  # the types of v4 and v5p count TensorCores, two a chip
        ("v4-8", "v4:1x2x2"),
        ("v5litepod-256", "v5e:16x16"),
        ("v6e-8", "v6e:2x4"),
        ("V6E-8", "v6e:2x4"),
        ("tpu7x-128", None),  # what it counts is not documented
        ("h100:8", "h100:1x8"),
        ("h100:4", "h100:1x4"),
        ("h100:16", "h100:2x8"),
        ("8xh100", "h100:1x8"),
        ("a100x32", "a100:4x8"),
        ("h100:12", None),  # no whole nodes
        ("v5e:256", "v5e:16x16"),
        ("v5e:7", None),
        ("v5p:8x8", "v5p:4x4x4"),
        ("v5p:0", None),
        ("v9-8", None),
        ("v5p", None),
        ("", None),
    ],
)
def test_other_notations(text, expected):
    assert meant(text) == expected
    if expected is not None:
        chips = Topology.read(expected).num_chips
        with pytest.raises(UserError, match=f"did you mean {expected}[?]"):
            Topology.read(text)
        assert str(chips) in text or str(2 * chips) in text or "x" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "v5e:5x5",
            r"^--topology: slices v5e:5x5 are not offered; did you mean v5e:4x8 \(32 chips\)",
        ),
        ("v5p:4x4x6", r"slices v5p:4x4x6 are not offered; did you mean v5p:4x4x4 \(64 chips\)"),
        ("v6e:32x32", "has 1,024 chips, a slice of TPU v6e at most 256; use .* 4[*]v6e:16x16"),
        ("v5p:16x32x32", "has 16,384 chips, .* at most 6,144; use .* such as 4[*]v5p:16x16x16"),
        ("v5e:100x101", "use several slices"),
        ("v5e:100003x100019", "use several slices"),  # two primes: a divisor is not searched for
    ],
)
def test_a_slice_that_is_not_offered(text, message):
    with pytest.raises(UserError, match=message) as found:
        Topology.read(text)
    advised = str(found.value).split(" ")[-1] if "several" in str(found.value) else None
    if advised is not None:  # what is advised can be read, and has as many chips
        dims = [int(n) for n in text.partition(":")[2].split("x")]
        assert Topology.read(advised).num_chips == math.prod(dims)


@pytest.mark.parametrize("chip", PLANNED.values(), ids=lambda chip: chip.name)
def test_the_shape_of_a_number_of_chips_is_offered(chip):
    sizes = [n for n in range(1, 600) if shape_of(chip, n) is not None]
    assert {1, 4, 8, 16, 32, 64, 128, 256} <= {*sizes}
    for size in sizes:
        shape = shape_of(chip, size)
        assert math.prod(shape) == size
        assert offered(chip, shape)
        assert Topology.read(f"{chip.name}:{'x'.join(map(str, shape))}").num_chips == size


def test_every_chip_of_tpus_has_a_largest_slice():
    for chip in PLANNED.values():
        if chip.is_tpu:
            assert shape_of(chip, chip.slice_chips) is not None, chip.name
    assert {"v2", "v3"} <= {*CHIPS} - {*PLANNED}


PLAN = ("configs/pretrain/llama3.1_8b.yaml", "--analytic", "mesh.data=1", "mesh.fsdp=-1")


def test_advice_doubles_the_micro_batches_until_there_is_room(capsys):
    words = ["plan", *PLAN, "--topology", "v5e:4x8", "train.batch_size=256"]
    assert main(words) == 1
    assert "First to try: train.accumulation=8." in capsys.readouterr().out
    assert main([*words, "train.accumulation=8"]) == 0


def test_advice_joins_two_changes_where_one_does_not_help(capsys):
    words = ["plan", *PLAN, "--topology", "v5e:4x4", "train.batch_size=256"]
    assert main(words) == 1
    advised = capsys.readouterr().out.partition("First to try: ")[2].partition(".\n")[0]
    keys = [word.partition("=")[0] for word in advised.split()]
    assert "train.accumulation" in keys
    assert len(keys) > 1
    assert main([*words, *advised.split()]) == 0


def test_a_batch_that_does_not_divide_is_told_the_sizes_nearest_to_it(capsys):
    words = ["plan", *PLAN, "--topology", "v5e:16x16", "train.batch_size=1000"]
    assert main(words) == 2
    assert "use a size of 768 or 1024, or 8 devices there" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["folder", "file"])
def test_a_finished_run_has_the_size_of_its_tokenizer(tmp_path, capsys, where):
    text = Path("configs/smoke/transformer.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text)
    words = ["plan", str(tmp_path / "config.yaml"), "--analytic", "--topology", "v5e:1x1", "--json"]
    words.append("tokenizer={type: sentencepiece, vocab_size: 300}")
    assert main(words) == 2
    assert "model.vocab_size: null" in capsys.readouterr().err
    Bytes().build(lambda: iter(()), "", tmp_path).save(tmp_path / "tokenizer")
    words[1] = str(tmp_path if where == "folder" else tmp_path / "config.yaml")
    assert main(words) == 0
    named = json.loads(capsys.readouterr().out)
    assert main([*words, "model.vocab_size=259"]) == 0
    assert named == json.loads(capsys.readouterr().out)


def test_a_folder_beside_a_config_that_is_not_of_a_run_is_not_read(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(Path("configs/smoke/transformer.yaml").read_text())
    Bytes().build(lambda: iter(()), "", tmp_path).save(tmp_path / "tokenizer")
    words = ["plan", str(path), "--analytic", "--topology", "v5e:1x1"]
    assert main([*words, "tokenizer={type: sentencepiece, vocab_size: 300}"]) == 2
    assert "model.vocab_size: null" in capsys.readouterr().err
