"""What is counted in compiled programs, against products and collectives known in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlm.plan.hlo.count import count

MESH = {"data": 4, "tensor": 2}


def compiled(function, *arrays, out=None):
    """The text of a program for the eight simulated devices; arrays are (shape, spec)."""
    mesh = jax.make_mesh(tuple(MESH.values()), tuple(MESH), axis_types=(AxisType.Auto,) * 2)
    given = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in arrays
    ]
    outs = None if out is None else NamedSharding(mesh, out)
    with jax.set_mesh(mesh):
        return jax.jit(function, out_shardings=outs).lower(*given).compile().as_text()


def test_products_in_nested_scans_count_as_often_as_they_run():
    def inner(x, w):
        return jnp.tanh(x @ w), None

    def outer(x, ws):
        return jax.lax.scan(inner, x, ws)

    text = compiled(
        lambda x, ws: jax.lax.scan(outer, x, ws)[0],
        ((32, 64), P("data", None)),
        ((5, 3, 64, 64), P()),
    )
    assert count(text, mesh=MESH).flops == 5 * 3 * 2 * (32 // 4) * 64 * 64


def test_a_loop_counts_from_its_condition_where_xla_says_nothing():
    text = compiled(
        lambda x, ws: jax.lax.scan(lambda x, w: (x @ w, None), x, ws)[0],
        ((32, 64), P()),
        ((7, 64, 64), P()),
    )
    import re

    silent = re.sub(r'"known_trip_count":\{"n":"\d+"\},?', "", text)
    assert silent != text
    found = count(silent, mesh=MESH)
    assert found.flops == 7 * 2 * 32 * 64 * 64
    assert not found.notes


def test_a_loop_whose_end_depends_on_data_is_noted():
    text = compiled(
        lambda x: jax.lax.while_loop(lambda x: x.sum() < 9.0, lambda x: x + x @ x, x),
        ((64, 64), P()),
    )
    found = count(text, mesh=MESH)
    assert found.flops == 2 * 64**3
    assert "trips" in found.notes[0]


def test_of_a_conditional_the_dearer_branch_counts():
    def program(x, flag):
        return jax.lax.cond(flag.sum() > 0, lambda x: (x @ x) @ x, lambda x: x @ x, x)

    text = compiled(program, ((64, 64), P()), ((8,), P()))
    assert count(text, mesh=MESH).flops == 2 * 2 * 64**3


@pytest.mark.parametrize(
    ("spec", "out", "kind", "axes", "share"),
    [
        (P("data", None), P(None, None), "all-gather", ("data",), 3 / 4),
        (P(None, "tensor"), P(None, None), "all-gather", ("tensor",), 1 / 2),
        (P(("data", "tensor"), None), P(None, None), "all-gather", ("data", "tensor"), 7 / 8),
    ],
)
def test_a_gather_sends_all_but_ones_own_part(spec, out, kind, axes, share):
    text = compiled(lambda x: x + 1, ((64, 128), spec), out=out)
    (found,) = count(text, mesh=MESH).collectives
    assert (found.kind, set(found.axes), found.slices) == (kind, set(axes), 1)
    assert found.wire_bytes == 64 * 128 * 4 * share


def test_a_sum_over_devices_sends_twice_what_a_gather_does():
    text = compiled(
        lambda x, w: x @ w, ((64, 128), P(None, "data")), ((128, 32), P("data", None)), out=P()
    )
    (found,) = count(text, mesh=MESH).collectives
    assert (found.kind, found.axes) == ("all-reduce", ("data",))
    assert found.wire_bytes == 2 * 64 * 32 * 4 * 3 / 4


def test_a_permutation_and_an_exchange_in_a_loop():
    def part(x):  # [16, 8] of each of four
        def turn(x, _):
            x = jax.lax.ppermute(x, "data", [(i, (i + 1) % 4) for i in range(4)])
            return jax.lax.all_to_all(x, "data", 1, 1, tiled=True), None

        return jax.lax.scan(turn, x, length=6)[0]

    def program(x):
        return jax.shard_map(part, in_specs=P("data"), out_specs=P("data"), check_vma=False)(x)

    found = {
        c.kind: c for c in count(compiled(program, ((64, 8), P("data"))), mesh=MESH).collectives
    }
    own = 16 * 8 * 4
    assert found["collective-permute"].wire_bytes == 6 * own
    assert found["all-to-all"].wire_bytes == pytest.approx(6 * own * 3 / 4)
    assert found["collective-permute"].axes == found["all-to-all"].axes == ("data",)


def test_which_network_a_collective_crosses():
    text = compiled(lambda x: x + 1, ((64, 128), P("data", None)), out=P())
    slices = [0, 0, 0, 0, 1, 1, 1, 1]  # the data axis is the slower one
    (found,) = count(text, mesh=MESH, slices=slices).collectives
    assert found.slices == 2


def test_bytes_of_a_slice_are_those_that_it_takes():
    def program(x, i):
        return jax.lax.dynamic_slice(x, (i[0].astype(jnp.int32), 0), (4, 256)) * 2

    text = compiled(program, ((4096, 256), P()), ((1,), P()))
    moved = count(text, mesh=MESH).hbm_bytes
    assert 2 * 4 * 256 * 4 <= moved <= 5 * 4 * 256 * 4  # and not the 4 MB that it is taken from


def test_bytes_of_an_elementwise_chain_are_read_and_written_once():
    text = compiled(lambda x, y: jnp.tanh(x) * y + x, ((512, 512), P()), ((512, 512), P()))
    assert count(text, mesh=MESH).hbm_bytes == 3 * 512 * 512 * 4


def test_a_scan_writes_each_row_of_its_result_once():
    text = compiled(
        lambda xs: jax.lax.scan(lambda c, x: (c, jnp.tanh(x)), 0.0, xs)[1], ((128, 8192), P())
    )
    moved = count(text, mesh=MESH).hbm_bytes
    assert moved < 8 * 128 * 8192 * 4  # not a row of the whole for each of 128 turns
    assert moved >= 2 * 128 * 8192 * 4


def test_a_backward_pass_is_twice_the_forward_one():
    def loss(w, x):
        return jnp.square(x @ w).sum()

    text = compiled(jax.grad(loss, (0, 1)), ((256, 64), P()), ((64, 256), P()))
    found = count(text, mesh=MESH)
    assert found.flops == 3 * 2 * 64 * 256 * 64
    assert found.by_phase["backward"].flops == pytest.approx(2 * found.by_phase["forward"].flops)


def test_convolutions_count_no_taps_in_the_padding():
    x, w = jnp.ones((1, 9, 3)), jnp.ones((4, 3, 5))
    dims = ("NWC", "WIO", "NWC")

    def program(x, w):
        return jax.lax.conv_general_dilated(x, w, (2,), [(3, 2)], dimension_numbers=dims)

    text = compiled(program, (x.shape, P()), (w.shape, P()))
    # by hand: for each output the taps that meet one of the nine elements
    taps = sum(0 <= 2 * o + t - 3 < 9 for o in range(6) for t in range(4))
    assert program(x, w).shape[1] == 6
    assert count(text, mesh=MESH).flops == 2 * 3 * 5 * taps
    ones = np.asarray(program(x, w)).sum()  # every product of ones is one multiplication
    assert 2 * ones == 2 * 3 * 5 * taps
