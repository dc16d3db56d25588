"""The speed of a run: real tokens a second, and the share of the devices' peak that they use.

    MFU = 3 x forward FLOPs per token x tokens/s / (devices x peak FLOP/s of one)

(Chowdhery et al. 2022, arXiv:2204.02311, appendix B: backward costs twice forward; recomputation
does not count.) Of frozen kernels no gradient is computed, so a step with an adapter costs less
than 3 x forward (`jaxlm.training.program.Program.step_flops_per_token`). Attention counts the
causal half. Padding does not count as tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax

from jaxlm.core.chips import chip_of


@dataclass(frozen=True)
class Peak:
    """FLOP/s that all devices of a run could do, and where the figure is from."""

    flops: float
    source: str

    def mfu(self, step_flops_per_token: float, tokens_per_second: float) -> float:
        """Model FLOPs utilisation, 0 to 1, of training at this rate."""
        return step_flops_per_token * tokens_per_second / self.flops


def peak_of(devices: list[jax.Device]) -> Peak | None:
    """The peak of these devices, from the table; None where it has none (CPUs).

    One that is measured while the machine does other work is noise: no figure is shown then.
    """
    kind = devices[0].device_kind
    chip = chip_of(kind)
    if chip is None:
        return None
    each = chip.peak() / chip.devices
    source = f"{len(devices)} x {each / 1e12:g} TFLOP/s ({kind}, bfloat16)"
    return Peak(len(devices) * each, source)
