"""Shared by the families with mixtures of experts: the layers with experts, and their tensors.

config = with_experts(config, moe, dense_layers)      # layers whose ffn is a plain one
rows = layer_rows(config, attention, names, "mlp")    # the tensors of every run of layers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jaxlm.models.blocks import OtherFFN
from jaxlm.models.families.shared.decoder import ffn_rows
from jaxlm.models.families.shared.tensor import Tensor, part_of
from jaxlm.models.transformer import TransformerConfig
from jaxlm.nn.moe import MoEConfig
from jaxlm.nn.stack import runs_of

NAMES = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}  # ours -> theirs


def with_experts(
    config: TransformerConfig, moe: MoEConfig, dense_layers: Sequence[int]
) -> TransformerConfig:
    """The config, whose own ffn stays that of `dense_layers`, with experts in all other layers."""
    other = OtherFFN(layers=tuple(dense_layers), ffn=config.ffn) if dense_layers else None
    return config.replace(ffn=moe, other_ffn=other)


def experts_of(config: TransformerConfig) -> MoEConfig:
    return part_of(config.ffn, MoEConfig, "ffn")


def of_the_file(config: TransformerConfig) -> TransformerConfig:
    """The config without the fields that belong to a run: the router's z-loss and capacity."""
    moe = experts_of(config).replace(router_z_loss=0.0, capacity_factor=None)
    return config.replace(ffn=moe)


def layer_rows(
    config: TransformerConfig,
    attention: Callable[[str, int], list[Tensor]],  # (run, its first layer) -> rows
    block: str = "mlp",
    names: Mapping[str, str] = NAMES,
) -> list[Tensor]:
    """Attention and ffn of every run of layers."""
    rows: list[Tensor] = []
    for run in runs_of([config.ffn_of(i) for i in range(config.num_layers)]):
        rows += attention(run.name, run.first)
        if isinstance(run.kind, MoEConfig):
            rows += expert_rows(run.name, run.first, block, names)
        else:
            rows += ffn_rows(run.name, first_layer=run.first)
    return rows


def expert_rows(run: str, first_layer: int, block: str, names: Mapping[str, str]) -> list[Tensor]:
    there, here = f"model.layers.{{layer}}.{block}.", f"{run}/ffn/"
    rows = [
        (f"{there}gate.weight", f"{here}router/kernel", "E D -> D E"),
        (f"{there}gate.e_score_correction_bias", f"{here}choice_bias", "E -> E"),
    ]
    for ours, theirs in names.items():
        path, shared = f"{here}{ours}/kernel", f"{here}shared/{ours}/kernel"
        rows.append((f"{there}experts.{{expert}}.{theirs}.weight", path, "O I -> I O"))
        rows.append((f"{there}shared_experts.{theirs}.weight", shared, "O I -> I O"))
    return [Tensor(*row, first_layer=first_layer) for row in rows]
