"""Distillation: the loss against numpy and TRL, gradients, a teacher of another size, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm import api
from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.core.config import UserError, parse, to_yaml
from jaxlm.core.tree import flatten, unflatten
from jaxlm.hf.exporting import export_run
from jaxlm.mesh import MeshConfig
from jaxlm.objectives.base import FrozenModel, Objective
from jaxlm.objectives.distill import jsd, kl
from jaxlm.run import load_saved
from jaxlm.runs.folder import RunDir
from jaxlm.training import build
from jaxlm.training.changes import check_changes
from jaxlm.training.loading import load_trained
from jaxlm.training.step import gradients
from tests import tiny

pytestmark = pytest.mark.usefixtures("shared_programs")

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "preference.json").read_text())
STUDENT, TEACHER = (np.array(GOLDEN["inputs"][k], np.float32) for k in ("student", "teacher"))


@pytest.mark.parametrize("case", GOLDEN["jsd"], ids=lambda c: f"{c['beta']} {c['temperature']}")
def test_the_divergence_of_gkd_equals_trl(case: dict[str, Any]) -> None:
    found = jsd(jnp.array(STUDENT), TEACHER, beta=case["beta"], temperature=case["temperature"])
    np.testing.assert_allclose(found, case["loss"], rtol=1e-6, atol=1e-6)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z.astype(np.float64))
    return e / e.sum(-1, keepdims=True)


def test_top_k_lumps_the_other_tokens_together() -> None:
    p, q = softmax(TEACHER / 1.5), softmax(STUDENT / 1.5)
    whole = (p * np.log(p / q)).sum(-1)
    np.testing.assert_allclose(kl(STUDENT, TEACHER, temperature=1.5), whole, rtol=1e-6)
    order = np.argsort(-p, axis=-1)[..., :3]
    p3, q3 = (np.take_along_axis(x, order, -1) for x in (p, q))
    p3, q3 = (np.concatenate([x, 1 - x.sum(-1, keepdims=True)], -1) for x in (p3, q3))
    want = (p3 * np.log(p3 / q3)).sum(-1)
    np.testing.assert_allclose(kl(STUDENT, TEACHER, temperature=1.5, top_k=3), want, rtol=1e-6)
    slope = jax.grad(lambda s: kl(s, TEACHER, top_k=11).sum())(jnp.array(STUDENT))
    assert np.isfinite(slope).all()


# --------------------------------------------------------------------------------------- whole runs

SHORT = (*tiny.FOUR_SMALL_STEPS, "data.seq_len=16")
MORE = ", ".join(
    ["temperature: 1.5", "weight: 0.6", "top_k: 20", "hidden_weight: 0.1", "projection: 32"]
)


def run(folder: Path, *changes: str) -> Any:
    return api.fit(tiny.load("transformer", *SHORT, f"run_dir={folder}", *changes))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the smoke config's model."""
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    assert run(folder).code == 0
    return folder


def small(teacher: Path, more: str = MORE) -> tuple[str, ...]:
    """A student of another size."""
    return (
        f"objective={{type: distill, teacher: {{from: {teacher}}}, {more}}}",
        "model.hidden_size=16",
        "model.num_layers=1",
    )


def measured(
    teacher: Path, accumulation: int = 1, mesh: MeshConfig = tiny.ONE
) -> tuple[dict[str, Any], Any]:
    """(gradient by path, a function of the parameters that gives the loss) of one batch."""
    config = tiny.load(
        "transformer", *SHORT, *small(teacher), f"train.accumulation={accumulation}"
    ).config
    program = build.program_of(config, mesh.build(), references=True)
    params = jax.tree.map(lambda x: 3 * x, program.draw())
    known = jax.device_get(load_trained(str(teacher), report=lambda _: None)[2])
    frozen = {
        "teacher": jax.device_put(known, program.references["teacher"].program.param_shardings)
    }
    batch = tiny.on_mesh(tiny.ragged_batch(0, rows=4), program)

    @jax.jit
    def loss(params: Any) -> Any:
        model, beside = nnx.merge(program.graphdef, params), program.beside(params, frozen)
        out = program.objective.loss_beside(model, beside, batch, key=None, cache=None)
        return out.loss_sum / out.weight

    with jax.set_mesh(program.mesh):
        key = jax.random.key(0)
        step = jax.jit(lambda p: gradients(program, p, frozen, batch, None, key)[:2])
        grads, weight = jax.device_get(step(params))
    flat = flatten(params)
    moved = lambda by: float(  # noqa: E731
        loss(unflatten({k: v + by * grads_at[k] for k, v in flat.items()}))
    )
    grads_at = {k: g / weight for k, g in flatten(grads).items()}
    return grads_at, moved


def test_the_gradient_is_that_of_differences_micro_batches_and_eight_devices(
    teacher: Path,
) -> None:
    grads, moved = measured(teacher)
    assert np.abs(grads["task_head/kernel"]).max() > 1e-3
    squared = sum(float((g**2).sum()) for g in grads.values())
    step = 5e-3 / np.sqrt(squared)
    assert (moved(step) - moved(-step)) / (2 * step) == pytest.approx(squared, rel=0.01)
    again, _ = measured(teacher, accumulation=2)
    on_eight, _ = measured(teacher, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    largest = max(np.abs(g).max() for g in grads.values())
    for path, g in grads.items():
        np.testing.assert_allclose(again[path], g, rtol=1e-6, atol=1e-6 * largest, err_msg=path)
        np.testing.assert_allclose(on_eight[path], g, rtol=2e-6, atol=2e-6 * largest, err_msg=path)


def test_the_losses_of_routers_are_added_whatever_the_weight(teacher: Path) -> None:
    moe = "model.ffn={type: moe, num_experts: 4, intermediate_size: 12, router_z_loss: 0.1}"
    found = tiny.load("transformer", *SHORT, *small(teacher, "weight: 1.0"), moe).config
    program = build.program_of(found, tiny.ONE.build(), references=True)
    frozen = {"teacher": load_trained(str(teacher), report=lambda _: None)[2]}
    batch = tiny.on_mesh(tiny.ragged_batch(0, rows=4), program)

    @jax.jit
    def sums(params: Any) -> Any:
        model, beside = nnx.merge(program.graphdef, params), program.beside(params, frozen)
        out = program.objective.loss_beside(model, beside, batch, key=None, cache=None)
        return out.loss_sum, out.metrics

    with jax.set_mesh(program.mesh):
        loss, metrics = jax.device_get(sums(program.draw()))
    routers = metrics["balance_loss"][0] + metrics["router_z_loss"][0]
    assert routers > 0
    assert loss == pytest.approx(2.0**2 * metrics["divergence"][0] + routers, rel=1e-6)


def test_a_student_that_is_cut_ends_in_the_same_weights(teacher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    outcome = run(folder, *small(teacher))
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any("eval/divergence" in line for line in lines)
    named = json.loads((folder / "checkpoints/00000004/identity.json").read_text())["frozen"]
    params = load_trained(str(teacher), report=lambda _: None)[2]
    assert named == {"teacher": {"run": str(teacher), "step": 4, "sha256": param_sha256(params)}}
    said: list[str] = []
    export_run(folder, tmp_path / "out", family="llama", report=said.append)
    assert "left out, as the objective alone uses it: task_head/kernel" in said
    assert any(line.startswith("read back and run") for line in said)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints/00000004")
    again = api.fit(load_saved(folder), must_exist=True)
    assert again.result["final"] == outcome.result["final"]
    # another teacher is not taken for the first one
    other = tmp_path / "other"
    run(other, "seed=5")
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints/00000004")
    with pytest.raises(UserError, match="^objective.teacher.from: the teacher of checkpoint 2 has"):
        api.fit(load_saved(folder, [f"objective.teacher.from={other}"]), must_exist=True)
    # the hash of the teacher says nothing about another start
    with pytest.raises(UserError, match="cannot go on as another run.*\n  init.from: .*other"):
        check_changes(RunDir(folder), load_saved(folder, [f"init.from={other}"]).config)


def test_a_teacher_that_does_not_fit_is_one_error(teacher: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    run(other, "tokenizer={type: characters, byte_fallback: false}")
    with pytest.raises(
        UserError, match=r"^objective.teacher.from: .*another tokenizer.*tokenizer$"
    ):
        run(tmp_path / "a", *small(other))
    with pytest.raises(UserError, match=r"^objective.teacher.from: .* has 264 ids.*size to 264$"):
        run(tmp_path / "b", *small(teacher), "model.vocab_size=270")
    with pytest.raises(UserError, match=r"^objective.teacher.from: .*gone: not a run directory"):
        run(tmp_path / "c", *small(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"^objective.projection: the teacher's .* set it to 32"):
        run(tmp_path / "d", *small(teacher, "hidden_weight: 1"))
    with pytest.raises(UserError, match=r"teacher.from: names no teacher; set it to the folder"):
        parse(Objective, {"type": "distill"})
    with pytest.raises(UserError, match=r"^step: from is null, so no other run is read"):
        FrozenModel(step=3).validate()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("transformer", "model.attention.is_causal=false", "does not fit; name another run .*sees"),
        ("t5", "model.vocab_size=264", "does not fit; name another run .*no source text"),
        (
            "transformer",
            "model.position={type: learned, max_seq_len: 8}",
            "has 8 positions, and rows have 16 tokens; set data.seq_len to at most 8",
        ),
        ("lstm", "model.carry_state=true", "is not given; set data.order to shuffle"),
    ],
)
def test_the_model_of_a_teacher_must_fit(tmp_path: Path, name: str, change: str, said: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    config = tiny.load(name, f"run_dir={other}", change).config
    (other / "config.yaml").write_text(to_yaml(config))
    student = tiny.load("transformer", *SHORT, *small(other, "weight: 0.5"), "data.order=stream")
    with pytest.raises(UserError, match=f"^objective.teacher.from: .*{said}") as error:
        build.program_of(student.config, tiny.ONE.build(), references=True)
    assert "\n" not in str(error.value)
