"""A compiled step from a file: the losses of one that was compiled, and refusals by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxlm import api
from jaxlm.adapters.lora import LoRA
from jaxlm.core.config import UserError
from jaxlm.core.exit_codes import DONE
from jaxlm.mesh import MeshConfig
from jaxlm.plan.compiling import compile_on
from jaxlm.plan.shapes import planned
from jaxlm.training import saved_step
from tests.tiny import learner, load, on_mesh, ragged_batch, spec_of, state_of

MESH = MeshConfig(data=2, fsdp=4)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(config, what was compiled, the file that keeps it)"""
    config = planned(load("transformer", "data.seq_len=16").config.replace(mesh=MESH))
    with compiled_here():
        compiled = compile_on(config, MESH.build(), {}, platform="cpu")
    path = tmp_path_factory.mktemp("step") / "step.bin"
    c = compiled
    saved_step.save(c.executable, config, c.learner, c.batch_spec, c.options, path)
    return config, compiled, path


@contextmanager
def compiled_here() -> Iterator[None]:
    """Compiles without jax's cache: a CPU program that was loaded from it cannot be kept.

    What is serialized of it lacks kernels, and another worker may have compiled the program before.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # jax asks the setting once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()


def losses(step, learner, count: int = 4) -> list[float]:
    state, found = state_of(learner), []
    with jax.set_mesh(learner.mesh):
        for number in range(count):
            state, metrics = step(state, {}, on_mesh(ragged_batch(number), learner))
            found.append(metrics["loss"][0])
    assert int(state["step"]) == count
    return [float(x) for x in found]


def test_losses_are_the_same_to_the_bit_and_nothing_is_compiled(kept):
    config, compiled, path = kept
    own = learner(config, MESH)
    spec = spec_of(on_mesh(ragged_batch(0), own))
    expected = losses(compiled.executable, own)
    with jax.log_compiles(), _Compilations() as seen:
        step, why = saved_step.load(config, own, spec, {}, path)
        assert why == "" and step is not None
        state = state_of(own)
        before = len(seen.steps)
        batch = on_mesh(ragged_batch(0), own)
        with jax.set_mesh(own.mesh):
            new, metrics = step(state, {}, batch)
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


def differing(path, config, learner, spec, options) -> set[str]:
    """The names under which the kept step and this one are not the same."""
    saved = json.loads(path.read_bytes().partition(b"\n")[0])["identity"]
    own = saved_step.identity(config, learner.program, spec, options)
    assert saved.keys() == own.keys()
    return {name for name, value in own.items() if saved[name] != value}


@pytest.mark.parametrize(
    ("part", "changes", "told"),
    [
        (None, {"seed": 7}, "seed 1 -> 7"),
        ("model", {"dropout": 0.5}, "model.dropout 0.1 -> 0.5"),
        ("objective", {"z_loss": 0.5}, "objective.z_loss 0.0 -> 0.5"),
        ("optimizer", {"learning_rate": 1.0}, "optimizer.learning_rate 0.003 -> 1.0"),
        ("train", {"steps": 99}, "train.steps 12 -> 99"),
        ("train", {"batch_size": 16}, "train.batch_size 8 -> 16"),
        ("train", {"accumulation": 2}, "train.accumulation 1 -> 2"),
        ("train", {"embedding_noise": 5.0}, "train.embedding_noise 0.0 -> 5.0"),
        ("mesh", {"zero": 1}, "mesh.zero 3 -> 1"),
        ("mesh", {"stage_repeats": 2}, "mesh.stage_repeats 1 -> 2"),
        ("adapter", LoRA(rank=0), "adapter None -> {"),
    ],
)
def test_another_config_is_reported(kept, part, changes, told):
    config, c, path = kept
    if part == "adapter":
        changed = config.replace(adapter=changes)
    elif part is None:
        changed = config.replace(**changes)
    else:
        changed = config.replace(**{part: getattr(config, part).replace(**changes)})
    given = (c.learner, c.batch_spec, {}, path)
    assert differing(path, changed, *given[:3]) == {"config"}
    why = f"{path} was made with another config: {told}"
    step, found = saved_step.load(changed, *given)
    assert step is None and found.startswith(why) and "\n" not in found


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        (None, {"run_dir": "elsewhere"}),
        ("train", {"prefetch": 1}),
        ("train", {"compiled": "step.bin"}),
        ("model", {"family": "llama"}),
        ("checkpoint", {"every_steps": 5}),
    ],
)
def test_what_no_step_is_traced_from_is_of_no_account(kept, part, changes):
    config, c, path = kept
    changed = (
        config.replace(**changes)
        if part is None
        else config.replace(**{part: getattr(config, part).replace(**changes)})
    )
    assert changed != config
    step, why = saved_step.load(changed, c.learner, c.batch_spec, {}, path)
    assert step is not None and why == ""


def stand_in(program, **changes):
    """A learner on devices of which something is said otherwise."""
    devices = [
        SimpleNamespace(id=d.id, platform=d.platform, device_kind=d.device_kind, client=d.client)
        for d in program.mesh.devices.flat
    ]
    for device, values in zip(devices, zip(*changes.values(), strict=True), strict=True):
        vars(device).update(zip(changes, values, strict=True))
    mesh = SimpleNamespace(devices=np.array(devices), shape=program.mesh.shape)
    return SimpleNamespace(program=SimpleNamespace(mesh=mesh))


VERSION = saved_step.package_version


@pytest.mark.parametrize(
    ("name", "told", "patches", "changes"),
    [
        ("version of jax", "'.*' -> '0.0'", [(jax, "__version__", "0.0")], {}),
        (
            "versions",
            "flax '.*' -> '0.0'",
            [(saved_step, "package_version", lambda p: "0.0" if p == "flax" else VERSION(p))],
            {},
        ),
        ("environment", "XLA_FLAGS '.* -> '--xla_a=1'", [("XLA_FLAGS", "--xla_a=1")], {}),
        ("code of jaxlm", "'[0-9a-f]+'? -> '0'", [(saved_step, "code_sha256", lambda: "0")], {}),
        (
            "batch",
            r"tokens \[\[8, 16\], 'int32'\] -> \[\[8, 8\], 'int32'\]",
            [],
            {"spec": lambda c: c.batch_spec | {"tokens": jax.ShapeDtypeStruct((8, 8), "int32")}},
        ),
        (
            "compiler options",
            "xla_a None -> '1'",
            [],
            {"options": lambda c: {"xla_a": "1"}},
        ),
        (
            "code of other parts",
            ".*ab12",
            [(saved_step, "code_of_other_parts", lambda config: {"my_losses": "ab12"})],
            {},
        ),
        (
            "mesh",
            "data 2 -> 4",
            [],
            {"learner": lambda c: learner(c.config, MeshConfig(data=4, fsdp=2))},
        ),
        (
            "kind of device",
            "'cpu' -> 'another'",
            [],
            {"learner": lambda c: stand_in(c.program, device_kind=["another"] * 8)},
        ),
        (
            "order of devices",
            r"\[\[0\], \[1\].* -> \[\[1\], \[0\]",
            [],
            {"learner": lambda c: stand_in(c.program, id=[1, 0, *range(2, 8)])},
        ),
        (
            "order of devices",
            r"\[\[0\], \[1\].* -> \[\[0, 0, 0, 0, 0\], \[0, 0, 0, 0, 1\]",
            [],
            {
                "learner": lambda c: stand_in(
                    c.program, coords=[(0, 0, 0)] * 8, core_on_chip=[0] * 8, slice_index=range(8)
                )
            },
        ),
    ],
)
def test_what_else_is_another_is_reported(kept, name, told, patches, changes, monkeypatch):
    config, c, path = kept
    given = {"config": config, "learner": c.learner, "spec": c.batch_spec, "options": {}}
    made = SimpleNamespace(config=config, program=c.program, batch_spec=c.batch_spec)
    given |= {key: change(made) for key, change in changes.items()}
    for patch in patches:
        (monkeypatch.setattr if len(patch) == 3 else monkeypatch.setenv)(*patch)
    assert differing(path, **given) == {name}
    step, why = saved_step.load(**given, path=path)
    assert step is None and "\n" not in why
    assert re.match(re.escape(f"{path} was made with another {name}: ") + told, why), why


def test_every_part_of_the_identity_has_a_test(kept):
    """A new one asks for a line above."""
    config, c, _ = kept
    marks = test_what_else_is_another_is_reported.pytestmark[0].args[1]
    own = saved_step.identity(config, c.program, c.batch_spec, {})
    assert {"config", *(name for name, *_ in marks)} == set(own)
    parts = {part or "seed" for part, *_ in test_another_config_is_reported.pytestmark[0].args[1]}
    assert parts == set(own["config"])
    tried = [
        (part, key)
        for part, changes, _ in test_another_config_is_reported.pytestmark[0].args[1]
        if part in ("train", "mesh")
        for key in changes
    ]
    for part in ("train", "mesh"):
        assert {key for of, key in tried if of == part} == set(own["config"][part])


def test_a_difference_late_in_a_long_list_is_shown():
    saved, own = ([[n] for n in range(64)] for _ in range(2))
    own[60] = [99]
    assert saved_step._differ(saved, own) == "60 [60] -> [99]"
    assert saved_step._differ({"a": {"b": 1}}, {"a": {"c": 1}}) == "a.c None -> 1"


def written(path, header: dict, payload: bytes):
    path.write_bytes(json.dumps(header).encode() + b"\n" + payload)
    return path


def test_a_damaged_file_is_reported(kept, tmp_path):
    config, c, path = kept
    line, _, payload = path.read_bytes().partition(b"\n")
    header, other = json.loads(line), tmp_path / "step.bin"

    def why(header: dict, payload: bytes) -> str:
        file = written(other, header, payload)
        step, told = saved_step.load(config, c.learner, c.batch_spec, {}, file)
        assert step is None or told == ""
        return told

    assert why(header, payload) == ""
    damaged = f"{other} is damaged: its SHA-256 is another"
    flipped = bytes([*payload[:-100], payload[-100] ^ 1, *payload[-99:]])
    assert why(header, flipped) == damaged
    assert why(header, payload[:-1]) == damaged
    assert why(header | {"sha256": "0" * 64}, payload) == damaged
    assert why(header | {"kept": header["kept"][::-1]}, payload) == damaged
    assert why(header | {"format": 0}, payload) == (
        f"{other} has format 0, this version reads {saved_step.FORMAT}"
    )
    for name in ("identity", "sha256", "format"):
        less = {key: value for key, value in header.items() if key != name}
        assert why(less, payload) == f"{other} is not a saved step"
    other.write_bytes(b"no step")
    assert "not a saved step" in saved_step.load(config, c.learner, c.batch_spec, {}, other)[1]
    with pytest.raises(UserError, match="train.compiled: .*no such file"):
        saved_step.load(config, c.learner, c.batch_spec, {}, tmp_path / "none.bin")


def test_what_the_runtime_cannot_load_is_reported(kept, tmp_path):
    config, c, path = kept
    header = json.loads(path.read_bytes().partition(b"\n")[0])
    header["sha256"] = saved_step.digest(header, b"no executable")
    other = written(tmp_path / "step.bin", header, b"no executable")
    step, why = saved_step.load(config, c.learner, c.batch_spec, {}, other)
    assert step is None and why.startswith(f"{other} cannot be loaded here: ")


QUIET = ("eval.at_end=false", "eval.every_steps=null", "sample.prompts=[]", "train.steps=3")
QUIET += ("mesh.num_devices=1",)  # several devices: `kept`


def kept_by_a_plan(name: str, path) -> None:
    """What `jaxlm plan --save` does, on devices that are here."""
    config = planned(load(name, *QUIET).config)
    with compiled_here():
        c = compile_on(config, config.mesh.build(), {}, platform="cpu")
    saved_step.save(c.executable, config, c.learner, c.batch_spec, c.options, path)


def trained(name: str, run_dir, *more: str) -> str:
    outcome = api.fit(load(name, f"run_dir={run_dir}", *QUIET, *more))
    assert outcome.code == DONE, outcome.message
    return outcome.result["final"]["param_sha256"]


@pytest.mark.usefixtures("shared_programs")
def test_training_takes_the_kept_step_and_ends_in_the_same_weights(tmp_path, capsys):
    path = tmp_path / "step.bin"
    kept_by_a_plan("transformer", path)
    own = trained("transformer", tmp_path / "own")
    kept = f"train.compiled={path}"
    assert trained("transformer", tmp_path / "kept", kept) == own
    assert f"the train step is that of {path}" in capsys.readouterr().out
    assert trained("transformer", tmp_path / "other", kept, "seed=9") != own
    told = "was made with another config: seed 1 -> 9; the step is compiled now"
    assert told in "".join(capsys.readouterr())


@pytest.mark.usefixtures("shared_programs")
@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "glm")),
        "t5",  # sentinels and a start; the others have masks for sentinels
    ],
)
def test_ids_that_training_finds_in_its_tokenizer_are_of_no_account(name, tmp_path, capsys):
    """A plan reads no tokenizer, so its masks, sentinels and starts are null."""
    path = tmp_path / "step.bin"
    kept_by_a_plan(name, path)
    own = trained(name, tmp_path / "own")
    assert trained(name, tmp_path / "kept", f"train.compiled={path}") == own
    assert f"the train step is that of {path}" in capsys.readouterr().out
