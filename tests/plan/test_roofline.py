"""Times from loads by hand; topologies and their networks."""

from __future__ import annotations

import pytest

from jaxlm.core.config import UserError
from jaxlm.plan import devices as facts
from jaxlm.plan.devices import Topology
from jaxlm.plan.roofline import Load, Piece, Transfer, roofline, speed

V5P = Topology.read("v5p:4x4x4")


def test_a_product_takes_its_flops_at_the_attainable_rate():
    line = roofline(Load(pieces=[Piece(flops=459e12 * V5P.chip.matmul)]), V5P)
    assert (line.step, line.bound) == (pytest.approx(1.0), "compute")


def test_parts_take_the_longer_of_products_and_memory():
    memory = Piece(hbm_bytes=2765e9 * facts.HBM_SHARE)
    product = Piece(flops=459e12 * V5P.chip.matmul)
    line = roofline(Load(pieces=[memory, product]), V5P)
    assert line.core == pytest.approx(2.0)
    both = Piece(flops=product.flops, hbm_bytes=memory.hbm_bytes)
    assert roofline(Load(pieces=[both]), V5P).core == pytest.approx(1.0)
    assert roofline(Load(pieces=[memory]), V5P).bound == "HBM"


def test_weights_can_be_hidden_activations_only_in_part():
    rate = V5P.ring_bandwidth(4) * facts.NETWORK_SHARE
    core = [Piece(flops=459e12 * V5P.chip.matmul)]
    one = {"kind": "all-gather", "size": 4, "wire_bytes": 0.5 * rate}
    weights = roofline(Load(pieces=core, transfers=[Transfer(axes=("fsdp",), **one)]), V5P)
    assert weights.step == pytest.approx(1 + 0.5 * facts.EXPOSED)
    waits = roofline(Load(pieces=core, transfers=[Transfer(axes=("tensor",), **one)]), V5P)
    assert waits.step == pytest.approx(1 + 0.5 * facts.DEPENDENT)
    both = roofline(Load(pieces=core, transfers=[Transfer(axes=("fsdp", "tensor"), **one)]), V5P)
    assert both.step == weights.step  # a gradient's, which is summed over both


def test_a_network_that_takes_longer_than_the_core_bounds_the_step():
    topology = Topology.read("v5e:16x16", slices=2)
    rate = topology.chip.dcn_bandwidth * facts.SLICE_NETWORK_SHARE
    one = Transfer(kind="all-reduce", axes=("data",), size=2, slices=2, wire_bytes=3 * rate)
    line = roofline(Load(pieces=[Piece(flops=1e12)], transfers=[one]), topology)
    assert line.bound == "DCN"
    assert line.dcn["data"] == pytest.approx(3.0)
    assert line.ici == {}


def test_slices_add_their_sums_and_wait_for_the_slowest():
    core = [Piece(flops=197e12 * Topology.read("v5e:16x16").chip.matmul)]  # one second
    for slices, waits in ((2, 1), (8, 3)):
        topology = Topology.read("v5e:16x16", slices=slices)
        alone = roofline(Load(pieces=core), topology)
        assert alone.step == pytest.approx(1 + facts.SLICE_WAIT * waits)
        sent = 0.1 * topology.chip.dcn_bandwidth * facts.SLICE_NETWORK_SHARE
        one = Transfer(
            kind="all-reduce", axes=("data",), size=slices, slices=slices, wire_bytes=sent
        )
        both = roofline(Load(pieces=core, transfers=[one]), topology)
        assert both.step == pytest.approx(1.1 * (1 + facts.SLICE_WAIT * waits))


def test_more_between_slices_never_makes_a_step_shorter():
    topology = Topology.read("v5e:16x16", slices=2)
    second = topology.chip.dcn_bandwidth * facts.SLICE_NETWORK_SHARE
    core = [Piece(flops=197e12 * topology.chip.matmul)]  # one second
    steps = []
    for seconds in (0.0, 0.5, 0.999, 1.001, 1.2, 3.0):
        one = Transfer(
            kind="all-reduce", axes=("data",), size=2, slices=2, wire_bytes=seconds * second
        )
        steps.append(roofline(Load(pieces=core, transfers=[one]), topology).step)
    assert steps == sorted(steps)
    waits = 1 + facts.SLICE_WAIT
    assert steps[-1] == pytest.approx((1 + 3) * waits)


def test_products_of_experts_eight_bits_and_narrow_heads_have_their_own_rates():
    v6e = Topology.read("v6e:4x4")
    second = 918e12 * v6e.chip.matmul
    wide, narrow = (
        roofline(Load(pieces=[Piece(flops=second, expert_width=w)]), v6e).step
        for w in (1e9, facts.EXPERT_WIDTH)
    )
    assert (wide, narrow) == (pytest.approx(1, rel=1e-5), pytest.approx(2))
    eight = roofline(Load(pieces=[Piece(flops=second, dtype="s8")]), v6e).step
    assert eight == pytest.approx(0.5 / facts.EIGHT_BIT_SHARE)
    whole, half = (
        roofline(Load(pieces=[Piece(flops=second, kernel_flops=second, head_size=h)]), v6e).step
        for h in (facts.HEAD_SIZE, facts.HEAD_SIZE / 2)
    )
    assert half == pytest.approx(2 * whole)


@pytest.mark.parametrize(
    ("text", "size", "links"),
    [
        ("v5p:4x4x4", 64, 6),  # all three dims, each a ring
        ("v5p:4x4x4", 16, 4),
        ("v5p:4x4x4", 4, 2),
        ("v5p:2x2x2", 8, 3),  # no dim of two wraps
        ("v5e:16x16", 256, 4),
        ("v5e:8x8", 64, 2),
        ("v6e:16x16", 16, 2),
    ],
)
def test_links_that_a_group_of_neighbours_sends_over(text, size, links):
    topology = Topology.read(text)
    assert topology.ring_bandwidth(size) == links * topology.chip.link_bandwidth


def test_the_devices_of_a_chip_share_it():
    topology = Topology.read("tpu7x:4x4x4")
    assert (topology.num_chips, topology.num_devices) == (64, 128)
    assert topology.peak_per_device() == 2307e12 / 2
    assert topology.ring_bandwidth(128) == 6 * 100e9 / 2


def test_nodes_of_gpus():
    topology = Topology.read("h100:4x8")
    assert (topology.num_devices, topology.devices_per_slice, topology.fast_groups) == (32, 8, 4)


@pytest.mark.parametrize(
    ("text", "slices", "message"),
    [
        ("v9:4x4", 1, "not a known chip; use one of v4"),
        ("v5p:4x4", 1, r"has 3 dims, v5p:4x4 has 2; did you mean v5p:2x2x4\?"),
        ("v5e:0x4", 1, "has no shape"),
        ("v5e", 1, "has no shape"),
        ("h100:2x16", 1, "a node has 8 GPUs, not 16"),
        ("h100:2x8", 2, "--slices: GPUs have nodes"),
        ("2*h100:2x8", 1, "--topology: '2[*]h100:2x8': GPUs have nodes, not slices"),
        ("v5e:00x4", 1, "has no shape"),
        ("0*v5e:4x4", 1, "not a known chip"),
        (
            "2*v6e:16x16",
            3,
            "--slices: 3, but --topology: '2[*]v6e:16x16' says 2; leave one of the two out, such "
            "as --topology v6e:16x16 --slices 3",
        ),
    ],
)
def test_a_topology_that_does_not_exist(text, slices, message):
    with pytest.raises(UserError, match=message):
        Topology.read(text, slices)


def test_speed_days_and_cost():
    found = speed(
        2.0,
        V5P,
        tokens_per_step=1e6,
        step_flops_per_token=(3e9, 6e9),
        device_flops=459e12,
        tokens=86_400 * 5e5,
        price=3.0,
    )
    assert found.tokens_per_second_per_chip == 5e5 / 64
    assert found.mfu_causal == pytest.approx(3e9 * 5e5 / (64 * 459e12))
    assert found.mfu_full == 2 * found.mfu_causal
    assert (found.days, found.cost, found.hfu) == (1.0, 24 * 3 * 64, 0.5)
