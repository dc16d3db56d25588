"""AR and TAR against the published formula in numpy, and in the loss of a recurrent model."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from jaxlm.models.rnn import RNNConfig
from jaxlm.nn.activation_penalties import activation_penalties
from jaxlm.objectives.causal_lm import CausalLM
from tests import tiny


def reference(h, dropped, segments, positions, ar, tar):
    """Token by token: the mean square, and that of the change within a document."""
    found = {"activation_penalty": [], "temporal_activation_penalty": []}
    for row in range(len(h)):
        squares, changes = [], []
        for t in range(h.shape[1]):
            if segments[row, t] == 0:
                continue
            squares.append(np.mean(dropped[row, t] ** 2))
            if positions[row, t] > 0:
                changes.append(np.mean((h[row, t] - h[row, t - 1]) ** 2))
        found["activation_penalty"].append(ar * np.mean(squares))
        found["temporal_activation_penalty"].append(tar * np.mean(changes))
    return found


def test_both_penalties_follow_the_formula_over_documents_and_padding() -> None:
    rng = np.random.default_rng(0)
    h = rng.normal(size=(2, 7, 3)).astype(np.float32)
    dropped = h * (rng.random((2, 1, 3)) > 0.5) * 2
    segments = np.array([[1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 0, 0, 0]])
    positions = np.array([[0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 0, 0, 0]])
    got = activation_penalties(h, dropped, segments, positions, ar=2.0, tar=0.5)
    want = reference(h, dropped, segments, positions, 2.0, 0.5)
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5)
    assert activation_penalties(h, dropped, segments, positions, ar=0, tar=0) == {}


@pytest.mark.parametrize("weight", ["penalty_activation", "penalty_change"])
def test_a_penalty_is_added_to_the_mean_loss_in_training_alone(weight: str) -> None:
    plain = RNNConfig(hidden_size=8, num_layers=2, dropout=0.5, dtype="float32")
    batch = tiny.ragged_batch(0, vocab=32)
    losses = {}
    for config in (plain, plain.replace(**{weight: 3.0})):
        model = config.build(32, rngs=nnx.Rngs(0))
        for key in (None, jax.random.key(1)):
            losses[config == plain, key is None] = CausalLM().loss(
                model, batch, key=key, cache=None
            )
    assert losses[True, True].loss_sum == losses[False, True].loss_sum  # without a key: no training
    out = losses[False, False]
    (name,) = out.metrics.keys() - losses[True, False].metrics.keys()
    added = out.metrics[name][0]
    assert added > 0
    total = losses[True, False].loss_sum + added
    np.testing.assert_allclose(out.loss_sum, total, rtol=1e-6)
