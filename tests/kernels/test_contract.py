"""The implementations of a linear map's contraction agree with einsum, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.kernels.contract import contract

CASES = {
    "BTD,DF->BTF": ((2, 5, 6), (6, 7), 1),
    "BTD,DNH->BTNH": ((2, 5, 6), (6, 3, 4), 1),
    "BTNH,NHD->BTD": ((2, 5, 3, 4), (3, 4, 6), 2),
}


@pytest.mark.parametrize("impl", ["reference", "matrix"])
@pytest.mark.parametrize("equation", CASES)
def test_contract_is_einsum(equation, impl):
    x_shape, kernel_shape, num_inputs = CASES[equation]
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=x_shape), rng.normal(size=kernel_shape)
    want = np.einsum(equation, x, kernel)
    upstream = rng.normal(size=want.shape)
    x, kernel, g = (jnp.asarray(a, jnp.float32) for a in (x, kernel, upstream))
    got, pull = jax.vjp(lambda x, k: contract(x, k, num_inputs, impl=impl), x, kernel)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    inputs, output = equation.split("->")
    first, second = inputs.split(",")
    dx, dkernel = pull(g)
    np.testing.assert_allclose(
        dx, np.einsum(f"{output},{second}->{first}", g, kernel), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        dkernel, np.einsum(f"{first},{output}->{second}", x, g), rtol=1e-5, atol=1e-5
    )
