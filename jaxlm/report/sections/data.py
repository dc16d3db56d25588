"""The data manifest: the counts of each split, and a fold with all of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.report.files import RunFiles
from jaxlm.report.sections.base import Section
from jaxlm.report.tables import flatten, table, tree


@dataclass(frozen=True, kw_only=True)
class Data(Section):
    """The data manifest."""

    title: ClassVar = "Data"
    order: ClassVar = 70
    template: ClassVar = """\
{{ counts }}
{% if rest %}
<details><summary><b>manifest</b>files and checksums</summary>{{ rest }}</details>
{% endif %}
"""

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        if not run.manifest:
            return None
        splits = _flat_splits(run.manifest.get("splits"))
        rest = {k: v for k, v in run.manifest.items() if k != "splits" or not splits}
        names = list(dict.fromkeys(name for split in splits.values() for name in split))
        rows = [[name, *(split.get(name) for split in splits.values())] for name in names]
        return {
            "counts": table(["", *splits], rows) if splits else "",
            "rest": tree(rest) if rest else "",
        }


def _flat_splits(splits: Any) -> dict[str, dict[str, Any]]:
    """{split: {dotted name: count}}; {} of a manifest that has none."""
    if not isinstance(splits, Mapping) or not all(isinstance(s, Mapping) for s in splits.values()):
        return {}
    return {str(name): dict(flatten(split)) for name, split in splits.items()}
