"""LoRA and freezing against the chain rule, the merged model, other meshes and the base itself."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxlm.adapters.dora import DoRA
from jaxlm.adapters.freeze import Freeze
from jaxlm.adapters.lora import LoRA
from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten, join, unflatten
from jaxlm.mesh import MeshConfig
from jaxlm.optim.adamw import AdamW
from jaxlm.optim.param_groups import Group
from jaxlm.optim.sgd import SGD
from tests import tiny

KINDS = {
    "transformer": ("transformer", "model.dropout=0"),
    "lstm": (
        "lstm",
        "model.dropout=0",
        "model.dropout_input=0",
        "model.dropout_hidden=0",
        "model.dropout_embedding=0",
        "model.dropout_recurrent=0",
    ),
    "moe": ("moe", "model.dropout=0", "model.other_ffn=null", "model.num_layers=2"),
}


@cache
def config_of(name: str) -> Any:
    own, *changes = KINDS[name]
    return tiny.load(own, *changes).config


def program_of(name: str, adapter: Any, mesh: MeshConfig = tiny.ONE) -> Any:
    return tiny.program(config_of(name), mesh, adapter=adapter)


@cache
def drawn(name: str, adapter: Any) -> dict[str, Any]:
    """Parameters with a B that is not 0, on the host."""
    return tiny.near_fresh(program_of(name, adapter).abstract_params)


def loss(program: Any, params: Any, batch: Any) -> jax.Array:
    carry = program.init_carry() if program.model.carries_state else None
    model = nnx.merge(program.graphdef, params)
    return program.objective.loss(model, batch, key=None, cache=carry).loss_sum


# -------------------------------------------------------------------------------------------- lora


# The attention of "moe" is the transformer's; the LSTM has central differences, below.
@pytest.mark.parametrize("name", [pytest.param("lstm", marks=pytest.mark.slow), "moe"])
def test_gradients_are_those_of_the_merged_model_by_the_chain_rule(name: str) -> None:
    """dA = s dW B^T and dB = s A^T dW, with dW the plain model's gradient at W + s A B."""
    adapter = LoRA(rank=3, alpha=6.0)
    program, params = program_of(name, adapter), drawn(name, adapter)
    plain = program_of(name, None)
    batch = tiny.on_mesh(tiny.ragged_batch(0), program)
    trained, base = program.trained(params), program.base(params)

    @jax.jit
    def adapted(trained: Any) -> Any:
        return jax.value_and_grad(lambda t: loss(program, join(t, base), batch))(trained)

    value, grads = adapted(trained)
    merged = jax.jit(adapter.merge)(params)
    want, whole = jax.jit(jax.value_and_grad(partial(loss, plain)))(merged, batch)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    grads, whole, flat = (flatten(jax.device_get(tree)) for tree in (grads, whole, params))
    found = [path.removesuffix("/adapter/lora_a") for path in grads if path.endswith("lora_a")]
    assert len(grads) == 2 * len(found) and len(found) >= 2
    for path in found:
        a, b = (np.asarray(flat[f"{path}/adapter/lora_{x}"], np.float64) for x in "ab")
        dw = np.asarray(whole[f"{path}/kernel"], np.float64)
        stack = a.ndim + b.ndim - 2 - dw.ndim
        n, r = int(np.prod(a.shape[:stack])), a.shape[-1]
        a, b = a.reshape(n, -1, r), b.reshape(n, r, -1)
        dw = dw.reshape(n, a.shape[1], b.shape[2])
        for i in range(n):
            for own, by_hand in (("a", 2 * dw[i] @ b[i].T), ("b", 2 * a[i].T @ dw[i])):
                got = np.asarray(grads[f"{path}/adapter/lora_{own}"]).reshape(n, *by_hand.shape)[i]
                scale = np.abs(by_hand).max() + 1e-3
                np.testing.assert_allclose(got, by_hand, rtol=0, atol=1e-4 * scale, err_msg=path)


@pytest.mark.parametrize(("name", "alpha"), [("transformer", 6.0), ("lstm", 60.0)])
def test_gradients_are_the_central_differences_of_the_loss(name: str, alpha: float) -> None:
    """Along random directions of A, B and both: (L(p + h d) - L(p - h d)) / 2h, whose error in h^2
    is taken away by half the step. They ascend in each element, so the slope is not lost in the
    rounding of the loss.
    """
    adapter = LoRA(rank=3, alpha=alpha)
    program, params = program_of(name, adapter), drawn(name, adapter)
    batch = tiny.on_mesh(tiny.ragged_batch(0), program)
    trained, base = program.trained(params), program.base(params)

    @jax.jit
    def adapted(trained: Any) -> Any:
        return jax.value_and_grad(lambda t: loss(program, join(t, base), batch))(trained)

    grads = flatten(jax.device_get(adapted(trained)[1]))
    rng = np.random.default_rng(1)
    for part in ("lora_a", "lora_b", "lora_"):
        way = {k: rng.uniform(size=g.shape) * np.sign(g) * (part in k) for k, g in grads.items()}
        length = np.sqrt(sum((d**2).sum() for d in way.values()))
        way = {k: d / length for k, d in way.items()}

        def slope(h: float, way: dict[str, np.ndarray] = way) -> float:
            def at(side: float) -> float:
                flat = flatten(trained)
                moved = {k: (x + side * way[k]).astype(np.float32) for k, x in flat.items()}
                return float(adapted(unflatten(moved))[0])

            return (at(h) - at(-h)) / (2 * h)

        want = (4 * slope(0.05) - slope(0.1)) / 3
        found = sum(float((grads[k] * way[k]).sum()) for k in grads)
        assert found == pytest.approx(want, rel=0.01), part


def test_a_merged_model_gives_the_logits_of_the_adapted_one() -> None:
    adapter = LoRA(rank=2)
    params, batch = drawn("transformer", adapter), tiny.ragged_batch(0)
    rows = {key: batch[key] for key in ("positions", "segment_ids")}

    def logits(program: Any, params: Any) -> np.ndarray:
        @jax.jit
        def call(params: Any, batch: Any, rows: Any) -> jax.Array:
            model = nnx.merge(program.graphdef, params)
            return model.logits(model(batch["tokens"], **rows).hidden)

        return np.asarray(call(params, batch, rows))

    plain = program_of("transformer", None)
    adapted = logits(program_of("transformer", adapter), params)
    np.testing.assert_allclose(logits(plain, jax.jit(adapter.merge)(params)), adapted, atol=1e-5)
    assert (
        np.abs(logits(plain, program_of("transformer", adapter).base(params)) - adapted).max()
        > 0.01
    )


def test_it_starts_as_its_base_and_a_is_drawn_by_the_rule_of_kaiming() -> None:
    adapter = LoRA(rank=16, targets=("ffn/down",))
    program = program_of("transformer", adapter)
    params = jax.jit(program.init_params)()
    plain = jax.jit(program_of("transformer", None).init_params)()
    jax.tree.map(np.testing.assert_array_equal, program.base(params), plain)
    own = flatten(program.trained(params))
    assert list(own) == [f"layers/ffn/down/adapter/lora_{x}" for x in "ab"]
    a, b = (np.asarray(x) for x in own.values())
    assert a.shape == (2, 96, 16) and b.shape == (2, 16, 32) and not b.any()
    bound = 1 / np.sqrt(96)
    assert 0.99 * bound < np.abs(a).max() <= bound
    np.testing.assert_allclose(a.std(), bound / np.sqrt(3), rtol=0.05)


def test_rank_0_is_the_base_and_has_nothing_to_train() -> None:
    program = program_of("transformer", LoRA(rank=0))
    assert program.abstract_params == program_of("transformer", None).abstract_params
    with pytest.raises(UserError, match="^adapter: trains no parameter; name some by"):
        tiny.learner(config_of("transformer"), adapter=LoRA(rank=0))


def test_targets_are_the_last_parts_of_a_path_or_a_pattern() -> None:
    def adapted(*targets: str) -> set[str]:
        program = program_of("transformer", LoRA(targets=targets))
        return {p.split("/adapter/")[0].removeprefix("layers/") for p in program.added}

    assert adapted("query", "ffn/up") == {"attention/query", "ffn/up"}
    assert adapted("layers/attention/(query|value)") == {"attention/query", "attention/value"}
    assert len(adapted("all-linear")) == 7
    for wrong, near in (("attn/qeury", "layers/attention/query"), ("uery", "layers/")):
        with pytest.raises(
            UserError, match=f"^adapter.targets: '{wrong}' matches nothing; .*{near}"
        ):
            adapted(wrong)


def test_parameters_that_are_named_and_new_heads_are_trained_in_full() -> None:
    program = program_of("transformer", LoRA(targets=("query",), train=("norm/scale$",)))
    full = set(flatten(program.trained(program.abstract_params))) - program.added
    assert full == {
        f"{x}/scale" for x in ("final_norm", "layers/attention_norm", "layers/ffn_norm")
    }


# ---------------------------------------------------------------------------------------- learning


def steps(
    learner: Any, count: int = 2, rows: int = 8, state: Any = None
) -> tuple[Any, list[float]]:
    """(state, losses) after some steps, from a state or the usual one."""
    batches = [tiny.on_mesh(tiny.ragged_batch(i, rows), learner) for i in range(count)]
    step = learner.compile(tiny.spec_of(batches[0]))
    state, found = state or tiny.state_of(learner), []
    for batch in batches:
        state, metrics = step(state, learner.frozen, batch)
        found.append(float(metrics["objective"][0] / metrics["objective"][1]))
    return state, found


MESHES = {
    "zero": MeshConfig(data=2, fsdp=2, tensor=2, zero=1),  # and moments in host memory
    "stages": MeshConfig(data=1, stage=2, fsdp=2, tensor=2),
}


@cache
def on_one_device(adapter: Any) -> tuple[Any, list[float]]:
    optimizer = AdamW(learning_rate=0.01, ema_decay=0.5)
    learner = tiny.learner(
        config_of("transformer"), adapter=adapter, optimizer=optimizer, accumulation=2
    )
    state, losses = steps(learner, rows=16)
    return jax.device_get(state), losses


@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_changes_nothing(mesh: str) -> None:
    adapter = DoRA(rank=2, dropout=0.2, train=("norm",))
    optimizer = AdamW(learning_rate=0.01, ema_decay=0.5, offload=mesh == "zero")
    learner = tiny.learner(
        config_of("transformer"),
        MESHES[mesh],
        adapter=adapter,
        optimizer=optimizer,
        accumulation=2,
        batch_size=16,
    )
    state, losses = steps(learner, rows=16)
    want, expected = on_one_device(adapter)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for part in ("params", "ema"):
        own = flatten(jax.device_get(state[part]))
        for path, value in flatten(want[part]).items():
            np.testing.assert_allclose(own[path], value, atol=2e-5, err_msg=path)


def test_what_is_frozen_has_no_gradient_no_moments_and_is_neither_donated_nor_changed() -> None:
    learner = tiny.learner(
        config_of("transformer"),
        adapter=Freeze(train=("norm/scale$",)),
        optimizer=AdamW(learning_rate=0.1, ema_decay=0.5),
    )
    sizes = {p: x.size for p, x in flatten(learner.program.abstract_params).items()}
    trained = sum(size for path, size in sizes.items() if path.endswith("norm/scale"))
    state, frozen = learner.abstract_state(), learner.abstract_frozen()
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree) if x.ndim)  # noqa: E731
    assert count(state["params"]) == count(state["ema"]) == trained
    assert count(state["opt_state"]) == 2 * trained
    assert count(frozen) == sum(sizes.values()) - trained
    batch = tiny.on_mesh(tiny.ragged_batch(0), learner)
    jaxpr = jax.make_jaxpr(learner.step)(state, frozen, tiny.spec_of(batch))
    shapes = [tuple(v.aval.shape) for v in jaxpr.jaxpr.outvars]
    assert (264, 32) not in shapes  # the embedding's
    step, state = learner.compile(tiny.spec_of(batch)), tiny.state_of(learner)
    before = jax.device_get((state["params"], learner.frozen))
    whole = flatten(learner.weights(state, learner.frozen))
    assert whole.keys() == sizes.keys()
    state, _ = step(state, learner.frozen, batch)
    assert not any(x.is_deleted() for x in jax.tree.leaves(learner.frozen))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(learner.frozen), before[1])
    for path, value in flatten(before[0]).items():
        assert np.abs(flatten(state["params"])[path] - value).max() > 1e-3, path


def test_frozen_all_but_some_trains_as_a_whole_model_does_with_the_others_held() -> None:
    """The update of what is trained is that of full training, without clipping by a joint norm."""
    optimizer = SGD(learning_rate=0.1, clip_norm=None)
    config = config_of("transformer")
    full, _ = steps(tiny.learner(config, optimizer=optimizer), 1)
    part, _ = steps(tiny.learner(config, adapter=Freeze(train=("ffn/",)), optimizer=optimizer), 1)
    own = flatten(part["params"])
    assert set(own) == {f"layers/ffn/{x}/kernel" for x in ("gate", "up", "down")}
    for path, value in own.items():
        np.testing.assert_allclose(value, flatten(full["params"])[path], atol=1e-6)


def test_mistakes_are_one_line() -> None:
    for adapter in (Freeze(train=("ffm/kernle",)), LoRA(train=("ffm/kernle",))):
        with pytest.raises(UserError, match="^adapter.train: 'ffm/kernle' matches nothing.*kernel"):
            program_of("transformer", adapter)
    with pytest.raises(UserError, match=r"^train: '\(' is not a regular expression"):
        Freeze(train=("(",)).validate()
    groups = (Group(pattern="embed", value=0.0), Group(pattern=".", value=1.0))
    with pytest.raises(UserError, match=r"^optimizer.lr_groups.0: a rate of 0 .* freeze"):
        tiny.learner(config_of("transformer"), optimizer=SGD(lr_groups=groups))


def test_experts_that_peft_cannot_hold_are_reported() -> None:
    """They are parameters of PEFT, as a router is, which have neither dropout nor DoRA there."""
    experts = [f"layers/ffn/{name}" for name in ("down", "gate", "router", "up")]
    for adapter, paths in (
        (LoRA(rank=2), []),
        (DoRA(rank=2), experts),
        (DoRA(rank=2, exclude=("ffn/(gate|up|router)",)), experts[:1]),
        (LoRA(rank=2, dropout=0.1, targets=("query", "router")), experts[2:3]),
        (DoRA(rank=2, exclude=tuple(experts)), []),
    ):
        lines = adapter.remarks(flatten(program_of("moe", adapter).param_axes))
        assert len(lines) == bool(paths)
        for line in lines:
            assert f"adapter.exclude=[{', '.join(paths)}]" in line and "export peft" in line
