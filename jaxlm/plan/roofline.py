"""From the work of a step to its time and what bounds it.

    core     sum over the parts of max(FLOPs / attainable FLOP/s, HBM bytes / attainable bytes/s)
    network  for each axis, bytes sent / (links x bandwidth x attainable share)
    step   = max(core + waits, each network, host) + exposed share x what was hidden
             + network between slices, then x (1 + wait x log2(slices))

where `waits` is the share of the collectives of activations (tensor, expert, context, stage) that
the next product depends on. Those of weights and gradients overlap with the core's work, except the
first and the last. Sums between slices come after the last gradient, and slices wait for the
slowest of them. Products of experts of width w run at w / (w + EXPERT_WIDTH) of the rate of large
products. The constants are in `jaxlm.plan.devices`. Model FLOPs utilization counts forward and
backward once; it is given with the causal half of attention and with all of it. Tokens are those of
the data, whatever rows the objective makes of them:

    MFU = 3 x forward FLOPs per token x tokens/s / (devices x peak)

Gradients of frozen kernels, which a step with an adapter does not compute, do not count.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jaxlm.plan import devices as facts
from jaxlm.plan.devices import Topology

# Axes whose collectives carry activations; along data or fsdp as well, they carry a gradient.
WAITING = {"tensor", "expert", "context", "stage"}
DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of the core's work, over a whole step, of one device."""

    flops: float = 0.0
    kernel_flops: float = 0.0  # those among them of attention kernels
    hbm_bytes: float = 0.0
    dtype: str = "bf16"
    head_size: float | None = None  # of the attention kernels' keys; None: HEAD_SIZE or more
    expert_width: float | None = None  # of the experts whose products these are; None: of none


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """The data that a device sends over a network in a step, along some axes of the mesh."""

    kind: str
    axes: tuple[str, ...]
    size: int  # devices of a group
    slices: int = 1  # that a group is spread over
    wire_bytes: float


@dataclass(frozen=True, kw_only=True)
class Load:
    """The work of one device in one step."""

    pieces: Sequence[Piece]
    transfers: Sequence[Transfer] = ()
    host_bytes: float = 0.0

    @property
    def flops(self) -> float:
        return sum(p.flops for p in self.pieces)

    @property
    def hbm_bytes(self) -> float:
        return sum(p.hbm_bytes for p in self.pieces)


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Seconds of a step, and of each of its parts alone."""

    step: float
    core: float
    compute: float
    hbm: float
    ici: Mapping[str, float] = field(default_factory=dict)  # by axes
    dcn: Mapping[str, float] = field(default_factory=dict)
    host: float = 0.0
    exposed: float = 0.0  # time of the network and the host that is not hidden

    @property
    def bound(self) -> str:
        """The bottleneck, without which the step would be shorter."""
        parts = {
            "compute": self.compute,
            "HBM": self.hbm if self.hbm > self.compute else 0.0,
            "ICI": sum(self.ici.values()),
            "DCN": sum(self.dcn.values()),
            "host memory": self.host,
        }
        return max(parts, key=lambda name: parts[name])


def roofline(load: Load, topology: Topology) -> Roofline:
    """The time of a step's load on a topology."""
    compute = hbm = core = 0.0
    for piece in load.pieces:
        products, memory = piece_seconds(piece, topology)
        compute, hbm, core = compute + products, hbm + memory, core + max(products, memory)
    ici, dcn = network_seconds(load.transfers, topology)
    waiting = sum(t for axes, t in ici.items() if set(axes.split("+")) <= WAITING)
    host = load.host_bytes / (topology.chip.host_bandwidth / topology.chip.devices)
    host /= facts.NETWORK_SHARE
    hidden = sum(ici.values()) - waiting
    slow = sum(dcn.values())
    waits = facts.DEPENDENT * waiting
    if topology.chip.is_tpu:  # sums between slices come after the last gradient
        longest = max(core + waits, sum(ici.values()), host)
        rest = facts.EXPOSED * (hidden + host) + slow
        rest += facts.SLICE_WAIT * math.log2(topology.slices) * (longest + rest)
    else:
        longest = max(core + waits, sum(ici.values()), slow, host)
        rest = facts.EXPOSED * (hidden + slow + host)
    return Roofline(
        step=longest + rest,
        core=core,
        compute=compute,
        hbm=hbm,
        ici=ici,
        dcn=dcn,
        host=host,
        exposed=longest + rest - core,
    )


def piece_seconds(piece: Piece, topology: Topology) -> tuple[float, float]:
    """(seconds of its products, seconds of its HBM traffic), each alone."""
    chip = topology.chip
    rate = topology.peak_per_device(piece.dtype) * chip.matmul
    if piece.dtype[:2] in ("s8", "f8"):
        rate *= facts.EIGHT_BIT_SHARE
    if piece.expert_width is not None:
        rate *= piece.expert_width / (piece.expert_width + facts.EXPERT_WIDTH)
    attention = rate * attention_share(piece.head_size)
    plain = piece.flops - piece.kernel_flops
    products = plain / rate + piece.kernel_flops / attention
    return products, piece.hbm_bytes / (chip.hbm_bandwidth / chip.devices * facts.HBM_SHARE)


def attention_share(head_size: float | None) -> float:
    """The rate of attention kernels relative to matmuls; None: of heads that fill a unit."""
    narrow = 1.0 if head_size is None else min(1.0, head_size / facts.HEAD_SIZE)
    return facts.ATTENTION_SHARE * narrow


def network_seconds(
    transfers: Iterable[Transfer], topology: Topology
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by axes on the fast network, and on the one between slices or nodes."""
    ici: dict[str, float] = defaultdict(float)
    dcn: dict[str, float] = defaultdict(float)
    chip = topology.chip
    slow_share = facts.SLICE_NETWORK_SHARE if chip.is_tpu else facts.NETWORK_SHARE
    slow_rate = chip.dcn_bandwidth / chip.devices * slow_share
    for t in transfers:
        name = "+".join(t.axes)
        within = max(1, t.size // t.slices)
        if t.slices > 1:
            # within a slice first, so that only a part of the array crosses to the next one
            cross = t.wire_bytes * (t.slices - 1) / t.slices * t.size / max(1, t.size - 1)
            dcn[name] += cross / (within if t.kind != "all-to-all" else 1) / slow_rate
        if within > 1:
            rate = topology.ring_bandwidth(within) * facts.NETWORK_SHARE
            hops = _hops(within, topology) if t.kind == "all-to-all" else 1.0
            ici[name] += t.wire_bytes * hops / rate
    return dict(ici), dict(dcn)


def _hops(size: int, topology: Topology) -> float:
    """Links that a message between any two of a ring of `size` passes: a quarter of it, on average.

    A switch has one.
    """
    return max(1.0, size / topology.chip.devices / 4) if topology.chip.is_tpu else 1.0


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The figures that follow from a step's time."""

    step: float
    tokens_per_second: float
    tokens_per_second_per_chip: float
    mfu_causal: float
    mfu_full: float
    hfu: float  # the same with what is computed again
    days: float | None = None
    cost: float | None = None  # USD


def speed(
    step: float,
    topology: Topology,
    *,
    tokens_per_step: float,
    step_flops_per_token: tuple[float, float],
    device_flops: float,
    tokens: float | None = None,
    price: float | None = None,
) -> Speed:
    """`step_flops_per_token`: with the causal half of attention and with the whole."""
    rate = tokens_per_step / step
    peak = topology.peak_per_device() * topology.num_devices
    half, full = (flops * rate / peak for flops in step_flops_per_token)
    seconds = None if tokens is None else tokens / rate
    hourly = topology.chip.price if price is None else price
    return Speed(
        step=step,
        tokens_per_second=rate,
        tokens_per_second_per_chip=rate / topology.num_chips,
        mfu_causal=half,
        mfu_full=full,
        hfu=device_flops / step / topology.peak_per_device(),
        days=None if seconds is None else seconds / DAY,
        cost=None if seconds is None else seconds / 3600 * hourly * topology.num_chips,
    )
