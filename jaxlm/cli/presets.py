"""`jaxlm presets`: the published models that `model.preset` names."""

from __future__ import annotations

import json

from jaxlm.cli.shared import options
from jaxlm.cli.shared.verb import PREPARING, verb


@verb(
    "list the published models that model.preset names",
    section=PREPARING,
    examples=(("presets", ""),),
)
@options.json
def command(as_json: bool) -> None:
    """Every preset with its family, parameters and sizes. Use one by `model: {preset: NAME}` in a
    config, or model.preset=NAME; other fields of model override its values.
    """
    from jaxlm.models.presets import all_presets, render

    presets = list(all_presets())
    print(json.dumps([p._asdict() for p in presets]) if as_json else render(presets))
