"""A compiled step from a file: the losses of one that was compiled, and refusals by name."""

from __future__ import annotations

import json

import jax
import pytest

from jaxlm.config import UserError
from jaxlm.mesh import MeshConfig
from jaxlm.plan.compiling import compile_on
from jaxlm.plan.shapes import planned
from jaxlm.train import loop, saved_step
from tests.tiny import load, on_mesh, program, ragged_batch, spec_of, state_of

MESH = MeshConfig(data=2, fsdp=4)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(config, what was compiled, the file that keeps it)"""
    config = planned(load("transformer", "data.seq_len=16").config.replace(mesh=MESH))
    compiled = compile_on(config, MESH.build(), {}, signals=False, platform="cpu")
    path = tmp_path_factory.mktemp("step") / "step.bin"
    c = compiled
    saved_step.save(c.executable, config, c.program, c.batch_spec, c.options, path)
    return config, compiled, path


def losses(step, program, count: int = 4) -> list[float]:
    state, found = state_of(program), []
    with jax.set_mesh(program.mesh):
        for number in range(count):
            state, metrics = step(state, on_mesh(ragged_batch(number), program))
            found.append(metrics["loss"][0])
    assert int(state["step"]) == count
    return [float(x) for x in found]


def test_losses_are_the_same_to_the_bit_and_nothing_is_compiled(kept):
    config, compiled, path = kept
    own = program(config, MESH)
    spec = spec_of(on_mesh(ragged_batch(0), own))
    expected = losses(compiled.executable, own)
    with jax.log_compiles(), _Compilations() as seen:
        step, why = saved_step.load(config, own, spec, {}, path)
        assert why == "" and step is not None
        state = state_of(own)
        before = len(seen.steps)
        batch = on_mesh(ragged_batch(0), own)
        with jax.set_mesh(own.mesh):
            new, metrics = step(state, batch)
        assert len(seen.steps) == before and not any("train_step" in s for s in seen.steps)
    assert state["params"]["embed"]["table"].is_deleted()  # the state is donated
    assert jax.tree.map(lambda x: x.sharding, new) == jax.tree.map(
        lambda x: x.sharding, own.abstract_state()
    )
    assert losses(step, own) == expected


class _Compilations:
    """What jax logs of compilations."""

    def __enter__(self):
        import logging

        self.steps: list[str] = []
        self.handler = logging.Handler()
        self.handler.emit = lambda record: self.steps.append(record.getMessage())  # type: ignore[method-assign]
        self.logger = logging.getLogger("jax")
        self.logger.addHandler(self.handler)
        return self

    def __exit__(self, *_):
        self.logger.removeHandler(self.handler)


def test_there_is_no_pickle_in_it(kept):
    *_, path = kept
    line, _, payload = path.read_bytes().partition(b"\n")
    header = json.loads(line)
    assert set(header) == {"format", "identity", "kept", "metrics", "sha256"}
    assert not payload.startswith(b"\x80")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda c: c.replace(seed=7), "config: seed 1 -> 7"),
        (
            lambda c: c.replace(train=c.train.replace(steps=99)),
            "config: train: steps 12 -> 99|config: steps 12 -> 99",
        ),
        (
            lambda c: c.replace(optimizer=c.optimizer.replace(learning_rate=1.0)),
            "config: learning_rate 0.003 -> 1.0",
        ),
    ],
)
def test_another_config_is_told(kept, change, name):
    config, compiled, path = kept
    c = compiled
    step, why = saved_step.load(change(config), c.program, c.batch_spec, {}, path)
    assert step is None and "\n" not in why
    assert any(text in why for text in name.split("|")), why


def test_other_options_shapes_meshes_and_versions_are_told(kept, tmp_path, monkeypatch):
    config, compiled, path = kept
    c = compiled

    def why(**changes):
        given = {"config": config, "program": c.program, "spec": c.batch_spec, "options": {}}
        step, told = saved_step.load(**(given | changes), path=path)
        assert step is None
        return told

    assert "another compiler options" in why(options={"xla_a": "1"})
    short = spec_of(on_mesh(ragged_batch(0, length=8), c.program))
    assert "another batch" in why(spec=short)
    assert "another mesh: data 2 -> 4" in why(program=program(config, MeshConfig(data=4, fsdp=2)))
    monkeypatch.setattr(saved_step, "_code", lambda: "0")
    assert "another code of jaxlm" in why()


def test_a_damaged_file_is_told(kept, tmp_path):
    config, compiled, path = kept
    c, other = compiled, tmp_path / "step.bin"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    other.write_bytes(bytes(data))
    assert saved_step.load(config, c.program, c.batch_spec, {}, other) == (
        None,
        f"{other} is damaged: its SHA-256 is another",
    )
    other.write_bytes(b"no step")
    assert "no saved step" in saved_step.load(config, c.program, c.batch_spec, {}, other)[1]
    with pytest.raises(UserError, match="train.compiled: .*no such file"):
        saved_step.load(config, c.program, c.batch_spec, {}, tmp_path / "none.bin")


def test_training_takes_the_kept_step_and_ends_in_the_same_weights(tmp_path, capsys):
    quiet = ["eval.at_end=false", "eval.every_steps=null", "sample.prompts=[]", "train.steps=3"]

    def run(name: str, *more: str) -> str:
        resolved = load("transformer", f"run_dir={tmp_path / name}", *quiet, *more)
        outcome = loop.train(resolved)
        assert outcome.code == loop.DONE, outcome.message
        return outcome.result["final"]["param_sha256"]

    config = planned(load("transformer", *quiet).config)
    compiled = compile_on(config, config.mesh.build(), {}, signals=False, platform="cpu")
    path = tmp_path / "step.bin"
    c = compiled
    saved_step.save(c.executable, config, c.program, c.batch_spec, c.options, path)
    own = run("own")
    assert run("kept", f"train.compiled={path}") == own
    assert f"the train step is that of {path}" in capsys.readouterr().out
    assert run("other", f"train.compiled={path}", "seed=9") != own
    told = "was made with another config: seed 1 -> 9; the step is compiled now"
    assert told in "".join(capsys.readouterr())
