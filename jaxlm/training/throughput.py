"""How fast a run is: real tokens a second, and the share of the devices' peak that they use.

    MFU = 3 x forward FLOPs per token x tokens/s / (devices x peak FLOP/s of one)

(Chowdhery et al. 2022, arXiv:2204.02311, appendix B: backward costs twice forward; recomputation
does not count.) Attention counts the causal half. Padding does not count as tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax

# Dense peak of one jax device, in bfloat16 FLOP/s, from the makers' pages.
PEAK_FLOPS = {
    "TPU v2": 22.5e12,  # half a chip: a device is a core
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,  # half a chip: two devices a chip
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


@dataclass(frozen=True)
class Peak:
    """FLOP/s that all devices of a run could do, and where the figure is from."""

    flops: float
    source: str

    def mfu(self, flops_per_token: float, tokens_per_second: float) -> float:
        """Model FLOPs utilisation, 0 to 1, of training at this rate."""
        return 3 * flops_per_token * tokens_per_second / self.flops


def peak_of(devices: list[jax.Device]) -> Peak | None:
    """The peak of these devices, from the table; None where it has none (CPUs).

    One that is measured while the machine does other work is noise: no figure is shown then.
    """
    kind = devices[0].device_kind
    matches = [name for name in PEAK_FLOPS if kind.startswith(name)]
    if not matches:
        return None
    each = PEAK_FLOPS[max(matches, key=len)]
    source = f"{len(devices)} x {each / 1e12:g} TFLOP/s ({kind}, bfloat16)"
    return Peak(len(devices) * each, source)
