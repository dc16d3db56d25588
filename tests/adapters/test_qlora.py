"""LoRA on a base of 4 or 8 bits: the base, what is merged, other meshes, a run that is cut."""

from __future__ import annotations

import json
import shutil
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm import api
from jaxlm.adapters.dora import DoRA
from jaxlm.adapters.lora import LoRA
from jaxlm.cli import main
from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten, join, unflatten
from jaxlm.generate import Sampling, ends_of, ids_of, writer_of
from jaxlm.info import describe_run
from jaxlm.mesh import MeshConfig
from jaxlm.nn.stored_kernel import as_plain, dequantize, quantize
from jaxlm.optim.adamw import AdamW
from jaxlm.plan.closed_form.facts import facts_of
from jaxlm.run import load_saved
from jaxlm.training.loading import load_trained
from tests import tiny
from tests.adapters.test_adapters import config_of, loss, program_of, steps

ONE = "mesh={data: 1, num_devices: 1}"
SHORT = (ONE, "data.seq_len=16", "eval.max_batches=1", *tiny.FOUR_STEPS)


@cache
def drawn(name: str, adapter: Any) -> dict[str, np.ndarray]:
    """Parameters with a B that is not 0, on the host."""
    flat = flatten(jax.device_get(jax.jit(program_of(name, adapter).init_params)()))
    rng = np.random.default_rng(0)
    return {
        path: rng.normal(0, 0.05, x.shape).astype(x.dtype) if path.endswith("lora_b") else x
        for path, x in flat.items()
    }


@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_rank_0_is_the_base_rounded(form) -> None:
    """Every kernel but the output embedding, and nothing else, is what its bits say."""
    program = program_of("transformer", LoRA(rank=0, base_weights=form))
    assert not program.added and len(program.frozen) == len(flatten(program.abstract_params))
    found = flatten(jax.device_get(jax.jit(program.init_params)()))
    plain_program = program_of("transformer", None)
    plain = flatten(jax.device_get(tiny.params_of(plain_program)))
    restored, changed = jax.device_get(jax.jit(as_plain)(found)), set()
    rounded = jax.jit(lambda x: dequantize(quantize(x, form)))
    for path, value in plain.items():
        if np.array_equal(restored[path], value):
            continue
        changed.add(path)
        np.testing.assert_allclose(restored[path], rounded(value), atol=1e-6)
    kernels = {path for path in plain if path.startswith("layers/") and path.endswith("kernel")}
    assert changed == kernels and restored.keys() == plain.keys()
    batch = tiny.on_mesh(tiny.ragged_batch(0), program)
    value = jax.jit(partial(loss, program))(unflatten(found), batch)
    want = jax.jit(partial(loss, plain_program))(unflatten(restored), batch)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    size = lambda flat: sum(x.nbytes for p, x in flat.items() if p.startswith("layers/"))  # noqa: E731
    assert size(found) < size(plain) * (0.3 if form == "nf4" else 0.45)  # blocks of 8 to 32 here


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        pytest.param("transformer", DoRA(rank=3, base_weights="nf4"), marks=pytest.mark.slow),
        ("lstm", LoRA(rank=3, base_weights="int8")),
        ("moe", LoRA(rank=3, targets=("query", "up"), base_weights="nf4")),
    ],
)
def test_merged_it_is_the_restored_base_and_the_change(name, adapter) -> None:
    """The loss of the merged model is that of the adapted one, and so are the gradients of A and B
    those of the same adapter on a float32 base of the same values.
    """
    program, flat = program_of(name, adapter), drawn(name, adapter)
    plain, wide = program_of(name, None), program_of(name, adapter.replace(base_weights=None))
    batch = tiny.on_mesh(tiny.ragged_batch(0), program)

    def adapted(program: Any, params: Any) -> Any:
        trained, base = program.trained(params), program.base(params)
        call = lambda t, base, batch: loss(program, join(t, base), batch)  # noqa: E731
        return jax.jit(jax.value_and_grad(call))(trained, base, batch)

    value, grads = adapted(program, unflatten(flat))
    want, whole = adapted(wide, unflatten(jax.jit(as_plain)(flat)))
    np.testing.assert_allclose(value, want, rtol=1e-5)
    grads, whole = flatten(jax.device_get(grads)), flatten(jax.device_get(whole))
    assert grads.keys() == whole.keys() and len(grads) >= 4
    for path, x in grads.items():
        scale = np.abs(whole[path]).max() + 1e-3
        np.testing.assert_allclose(x, whole[path], atol=1e-4 * scale, err_msg=path)
    merged = jax.jit(adapter.merge)(unflatten(flat))
    assert flatten(merged).keys() == flatten(plain.abstract_params).keys()
    np.testing.assert_allclose(jax.jit(partial(loss, plain))(merged, batch), value, rtol=1e-5)


def test_what_is_trained_in_full_is_not_rounded() -> None:
    program = program_of("transformer", LoRA(rank=1, base_weights="nf4", train=("query/kernel",)))
    assert "layers/attention/query/kernel" in flatten(program.trained(program.abstract_params))
    assert "layers/attention/key/kernel/codes" in program.frozen


def test_a_pattern_for_the_scales_of_norms_is_not_of_those_of_kernels() -> None:
    program = program_of("transformer", LoRA(rank=1, base_weights="nf4", train=("scale",)))
    trained = flatten(program.trained(program.abstract_params))
    assert [path for path in trained if path.endswith("/scale")]
    assert "layers/attention/key/kernel/scales" in program.frozen
    assert not [path for path in trained if path.endswith("/scales")]


@pytest.mark.parametrize("adapted", ["query", "up"])
@pytest.mark.parametrize(("name", "layers"), [("transformer", "2,32"), ("moe", "2,8,32")])
def test_a_backward_pass_keeps_the_codes_and_no_restored_kernel(name, layers, adapted) -> None:
    """No residual of the scan over layers has the shape of its kernels, [L, D, F] or [L, E, D, F].

    The kernels are those of `up`, without an adapter and with one.
    """
    batch = tiny.ragged_batch(0)

    def traced(adapter: LoRA) -> tuple[str, dict[str, Any]]:
        """(the gradient's program, the shapes of the parameters by path)"""
        program = program_of(name, adapter)
        shapes = program.abstract_params
        call = lambda t, base: loss(program, join(t, base), batch)  # noqa: E731
        text = jax.make_jaxpr(jax.grad(call))(program.trained(shapes), program.base(shapes))
        return str(text), flatten(shapes)

    plain = LoRA(rank=2, targets=(adapted,))
    text, shapes = traced(plain)
    (path,) = [p for p in shapes if p.endswith("ffn/up/kernel")]
    kernels = ",".join(map(str, shapes[path].shape))
    assert kernels.startswith(layers) and f"f32[{kernels}]" in text
    text, shapes = traced(plain.replace(base_weights="nf4"))
    codes = ",".join(map(str, shapes[f"{path}/codes"].shape))
    assert f"u8[{codes}]" in text and f"f32[{kernels}]" not in text


def test_eight_devices_are_as_one() -> None:
    adapter = LoRA(rank=2, base_weights="nf4")
    optimizer = AdamW(learning_rate=0.01)
    found = []
    for mesh in (tiny.ONE, MeshConfig(data=2, fsdp=2, tensor=2)):
        learner = tiny.learner(
            config_of("transformer"), mesh, adapter=adapter, optimizer=optimizer, batch_size=16
        )
        state, losses = steps(learner, rows=16, state=learner.create())  # rounded on its mesh
        found.append((losses, flatten(jax.device_get(state["params"])), learner.frozen["base"]))
    (one, params, base), (eight, own, split) = found
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(base), jax.device_get(split))
    for path, value in params.items():
        np.testing.assert_allclose(own[path], value, atol=2e-5, err_msg=path)


@pytest.mark.usefixtures("shared_programs")
def test_a_run_rounds_the_base_that_it_names_and_ends_the_same_if_it_is_cut(tmp_path: Path) -> None:
    base, run = tmp_path / "base", tmp_path / "qlora"
    adapter = "adapter={type: lora, rank: 2, targets: [query], base_weights: nf4}"
    for folder, changes in ((base, ()), (run, (f"init.from={base}", adapter))):
        assert api.fit(tiny.load("transformer", *SHORT, f"run_dir={folder}", *changes)).code == 0

    def params_of(folder: Path, merge: bool = False) -> dict[str, np.ndarray]:
        loaded = load_trained(str(folder), overrides=(ONE,), merge=merge, report=lambda _: None)
        return flatten(jax.device_get(loaded[2]))

    plain, own, merged = params_of(base), params_of(run), params_of(run, merge=True)
    assert merged.keys() == plain.keys()
    for path, value in plain.items():
        stored = path.startswith("layers/") and path.endswith("kernel")
        want = np.asarray(dequantize(quantize(jnp.asarray(value), "nf4"))) if stored else value
        np.testing.assert_allclose(as_plain(own)[path], want, atol=1e-6)
        assert np.array_equal(merged[path], as_plain(own)[path]) != path.endswith("query/kernel")
    assert describe_run(run)["num_params"] == describe_run(base)["num_params"] + 2 * 2 * 2 * 32

    want = json.loads((run / "result.json").read_text())["final"]
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "00000004")
    assert api.fit(load_saved(run), must_exist=True).result["final"] == want


@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_a_plan_has_the_bytes_that_are_stored(form) -> None:
    config = config_of("transformer").replace(adapter=LoRA(rank=2, base_weights=form))
    facts = facts_of(config)
    shapes = program_of("transformer", config.adapter).abstract_params
    stored = sum(x.size * x.dtype.itemsize for x in flatten(shapes).values())
    assert sum(a.size * a.itemsize for a in facts.params) == pytest.approx(stored)
    wide = facts_of(config.replace(adapter=LoRA(rank=2)))
    assert {a.path: a.size for a in facts.params} == {a.path: a.size for a in wide.params}
    assert facts.frozen == wide.frozen and facts.step_flops == wide.step_flops


@pytest.mark.usefixtures("shared_programs")
def test_a_trained_model_is_used_with_narrow_kernels(tmp_path: Path, capsys: Any) -> None:
    """Its adapter is merged first; text is that of the rounded float32 kernels, on any mesh."""
    run = tmp_path / "lora"
    adapter = "adapter={type: lora, rank: 2, targets: [query], train: [norm]}"
    assert api.fit(tiny.load("transformer", *SHORT, f"run_dir={run}", adapter)).code == 0
    sampling = {"temperature": 0, "max_tokens": 12, "min_tokens": 12}
    prompts = ["It was", "No"]
    tokenizer = jaxlm.load(run).tokenizer
    config, program, merged = load_trained(str(run), overrides=(ONE,), merge=True, report=str)[:3]
    ends = ends_of(config.data, {}, tokenizer)
    ids = ids_of(tokenizer, (), trained=True, ends=ends)
    writer = writer_of(program, Sampling(**sampling), tokenizer, ids, ends)
    for form in ("int8", "nf4"):
        rounded = {
            path: dequantize(quantize(x, form))
            if path.startswith("layers/") and path.endswith("kernel")
            else x
            for path, x in flatten(merged).items()
        }
        texts = []
        for mesh in (ONE, "mesh={data: 2, fsdp: 2, tensor: 2, num_devices: 8}"):
            used = jaxlm.load(run, overrides=(mesh,), weights=form)
            own = flatten(jax.device_get(used.params))
            assert (
                own["layers/attention/query/kernel/codes"].dtype
                == {"int8": "i1", "nf4": "u1"}[form]
            )
            for path, value in jax.device_get(as_plain(own)).items():
                np.testing.assert_allclose(value, rounded[path], atol=1e-6, err_msg=path)
            texts.append(used.generate(prompts, **sampling))
        assert texts == [writer(unflatten(rounded), prompts)] * 2
    word = ["generate", str(run), "--prompt", "It was", "--temperature", "0", "--max-tokens", "12"]
    assert main([*word, "--weights", "nf4", "--json", ONE]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])["text"]
    assert said and texts[0][0].startswith(said)


def test_a_model_without_kernels_is_named(tmp_path: Path) -> None:
    run = tmp_path / "bag"
    changes = (
        "data={type: records, source: {type: synthetic, labels: [a, b]}, seq_len: 32}",
        "data.task={type: classification}",
        "model={type: bag_of_words}",
        "objective={type: naive_bayes}",
        "optimizer=null",
        "sample.prompts=[]",
    )
    assert (
        api.fit(tiny.load("transformer", ONE, *changes, f"run_dir={run}", "train.steps=2")).code
        == 0
    )
    with pytest.raises(UserError, match="^weights: .*"):
        jaxlm.load(run, weights="int8").params  # noqa: B018
