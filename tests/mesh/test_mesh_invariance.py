"""One run on 1, 2 and 8 devices: the same start, the same batches, the same losses.

The gradients of one step, each parameter's by itself and on more meshes, are compared in
`test_mesh_gradients`; here the optimizer has taken many.
"""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest

from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.data.loader import Loader
from jaxlm.mesh import MeshConfig, batch_sharding, local_rows
from jaxlm.training.feed import Feed, batch_spec
from tests import tiny

STEPS = 20
MESHES = {
    "one": tiny.ONE,
    "data 2": MeshConfig(data=2, num_devices=2),
    "fsdp 8": MeshConfig(data=1, fsdp=8),
    "mixed 8": MeshConfig(data=2, fsdp=2, tensor=2),
    "zero 8": MeshConfig(data=2, fsdp=2, tensor=2, zero=1),
    "expert 8": MeshConfig(data=1, fsdp=2, expert=2, tensor=2),
}
TRAINED = [pytest.param("transformer", "mixed 8", marks=pytest.mark.slow), ("lstm", "zero 8")]
INITIALISED = [
    pytest.param("transformer", "data 2", marks=pytest.mark.slow),
    ("transformer", "mixed 8"),
    ("lstm", "fsdp 8"),
    ("moe", "expert 8"),
]
# The LSTM takes its rows in two micro-batches, carries its state with the tokens that its n-grams
# look back at, and drops weights, too. Every
# layer of the mixture has experts; a first one without: models/test_pipeline.py.
OVERRIDES = {
    "transformer": (),
    "lstm": (
        "train.accumulation=2",
        "model.embedding_size=16",
        "model.ngrams={orders: [2, 3], buckets: 64, dim: 8}",
    ),
    "moe": ("model.other_ffn=null", "model.num_layers=2"),
}


@cache
def setup(model):
    config = tiny.load(
        model, *OVERRIDES[model], f"train.steps={STEPS}", "train.batch_size=16"
    ).config
    return tiny.prepared(config)


@cache
def trained(model, mesh):
    """(ids, tokens, losses, gradient norms) of a run of 20 steps."""
    config, data = setup(model)
    learner = tiny.learner(config, MESHES[mesh])
    rows = data.rows("train", batch_size=16, seed=config.seed)
    transform = config.objective.host_transform(data.tokenizer, config.seed)
    loader = Loader(rows, transform, 16, local_rows(16, learner.mesh), threads=0, prefetch=0)
    spec = config.objective.transform_spec(data.row_spec)
    step = learner.compile(batch_spec(spec, 16, learner.mesh))
    state = tiny.state_of(learner)  # a start of each mesh: below
    ids, tokens, metrics = [], [], []
    with Feed(loader, learner.mesh, 0, ahead=0) as feed:
        for _ in range(STEPS):
            names, batch = next(feed)
            ids.append(names)
            tokens.append(np.asarray(batch["tokens"]))
            state, found = step(state, {}, batch)
            metrics.append(found)
    figures = jax.device_get(metrics)
    loss = np.array([f["objective"][0] / f["objective"][1] for f in figures])
    norm = np.array([f["grad_norm"][0] for f in figures])
    return np.array(ids), np.array(tokens), loss, norm


@pytest.mark.parametrize(("model", "mesh"), TRAINED)
def test_a_run_does_not_depend_on_the_mesh(model, mesh):
    ids, tokens, loss, norm = trained(model, "one")
    ids_, tokens_, loss_, norm_ = trained(model, mesh)
    np.testing.assert_array_equal(ids_, ids)
    np.testing.assert_array_equal(tokens_, tokens)
    np.testing.assert_allclose(loss_, loss, rtol=1e-5)
    np.testing.assert_allclose(norm_, norm, rtol=1e-5)
    assert loss[-1] < loss[0] - 0.3  # it has learnt, so the parameters had to agree as well


@pytest.mark.parametrize("model", tiny.MODELS)
def test_dropout_was_on(model):
    """Else the losses above would say nothing of its masks."""
    config, _ = setup(model)
    assert config.model.dropout == 0.1


@cache
def start(model, mesh):
    """The hash of the parameters that a run begins with."""
    config, _ = setup(model)
    program = tiny.program(config, MESHES[mesh])
    return param_sha256(jax.jit(program.init_params, out_shardings=program.param_shardings)())


@pytest.mark.parametrize(("model", "mesh"), INITIALISED)
def test_parameters_at_the_start_do_not_depend_on_the_mesh(model, mesh):
    assert start(model, mesh) == start(model, "one")


def test_odd_sizes_start_equal():
    """Shards that no vector register divides: 20 = 4 x 5 wide."""
    config, _ = setup("lstm")
    hashes = set()
    for mesh in (tiny.ONE, MeshConfig(data=1, fsdp=4, tensor=2)):
        model = config.model.replace(hidden_size=20, embedding_size=20)
        program = tiny.program(config, mesh, model=model)
        params = jax.jit(program.init_params, out_shardings=program.param_shardings)()
        hashes.add(param_sha256(params))
    assert len(hashes) == 1


def test_parameters_are_made_where_they_live():
    """No device holds the whole of a big model while it is initialised."""
    config, _ = setup("transformer")
    model = config.model.replace(hidden_size=256, num_layers=4)
    program = tiny.program(config, MeshConfig(data=1, fsdp=8), model=model)
    init = jax.jit(program.init_params, out_shardings=program.param_shardings)
    memory = init.lower().compile().memory_analysis()
    size = sum(x.size * 4 for x in jax.tree.leaves(program.abstract_params))
    assert memory.output_size_in_bytes < size / 8 * 1.05
    assert memory.temp_size_in_bytes < size / 8 * 3  # random bits and their normals


def test_batches_are_split_over_the_mesh():
    mesh = MESHES["mixed 8"].build()
    assert batch_sharding(mesh, 2).shard_shape((16, 32)) == (4, 32)
