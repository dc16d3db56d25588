"""Compiler options: those of the device, those of the run over them, and those unknown to all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxlm.core.config import UserError
from jaxlm.training import compiler as xla
from jaxlm.training.compiler import compile_with, options_for
from tests import tiny


def test_the_chip_overrides_the_maker_and_the_run_overrides_both(monkeypatch):
    vmem = "xla_tpu_scoped_vmem_limit_kib"
    monkeypatch.setattr(xla, "OPTIONS", {"TPU": {"a": "1", vmem: "2"}})
    assert options_for("TPU v4", {}) == {"a": "1", vmem: "2"}
    assert options_for("TPU v5", {}) == options_for("TPU v5 lite", {}) == {"a": "1", vmem: "32768"}
    assert options_for("TPU v6 lite", {"c": "4"}) == {"a": "1", vmem: "98304", "c": "4"}
    assert options_for("TPU7x", {vmem: "5"}) == {"a": "1", vmem: "5"}
    assert options_for("cpu", {}) == {}


@pytest.mark.parametrize(
    ("name", "value"), [("xla_nonsense", "1"), ("xla_cpu_enable_fast_math", "perhaps")]
)
def test_what_the_compiler_does_not_know_is_an_error(name, value):
    lowered = jax.jit(lambda x: x + 1).lower(jnp.ones(4))
    with pytest.raises(UserError, match=f"train.xla: {name}='{value}': this compiler says INVALID"):
        compile_with(lowered, {name.rpartition("_")[0]: "", name: value})
    assert compile_with(lowered, {name: ""})(jnp.ones(4)).tolist() == [2.0] * 4  # taken out


def test_another_failure_is_not_laid_to_an_option():
    class Lowered:
        def compile(self, compiler_options):
            raise RuntimeError("out of memory; see xla_limit")

    with pytest.raises(RuntimeError, match="out of memory"):
        compile_with(Lowered(), {"xla_limit": "1"})


def test_a_run_says_what_it_compiled_with(tmp_path, capsys):
    from jaxlm import api
    from jaxlm.core.exit_codes import DONE

    words = ("train.steps=2", "eval.at_end=false", "sample.prompts=[]", "mesh.num_devices=1")
    chosen = "train.xla={xla_cpu_enable_fast_math: 'false'}"
    outcome = api.fit(tiny.load("transformer", *words, chosen, f"run_dir={tmp_path / 'run'}"))
    assert outcome.code == DONE, outcome.message
    assert "xla: xla_cpu_enable_fast_math=false" in capsys.readouterr().out
