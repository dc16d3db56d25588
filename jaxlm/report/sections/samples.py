"""The texts that the model wrote, newest first; a long run is shown at steps spread over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.report.files import RunFiles
from jaxlm.report.sections.base import Section

MAX_STEPS = 24
MAX_PER_STEP = 6
MAX_CHARS = 3000
MAX_BYTES = 600_000  # of all samples together


@dataclass(frozen=True, kw_only=True)
class Samples(Section):
    """The texts that the model wrote."""

    title: ClassVar = "Samples"
    order: ClassVar = 50
    template: ClassVar = """\
{% for block in blocks %}
<details{{ " open" if loop.first }}><summary><b>step {{ block.step }}</b>{{ block.after }}</summary>
{%- for s in block.samples -%}
<div class="text"><span class="prompt">{{ s.prompt }}</span>{{ s.text }}</div>
{%- endfor -%}
</details>
{% endfor %}
{% if left %}<p class="note">{{ left }} more are in samples.jsonl.</p>{% endif %}
"""

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        records = list({record["step"]: record for record in run.samples}.values())
        if not records:
            return None
        count = min(len(records), MAX_STEPS)
        chosen = sorted({round(i * (len(records) - 1) / max(count - 1, 1)) for i in range(count)})
        main = run.main()
        blocks: list[dict[str, Any]] = []
        size = 0
        for index in reversed(chosen):
            record = records[index]
            samples = [_sample(s) for s in record["samples"][:MAX_PER_STEP]]
            # a character of HTML's own is up to 5 bytes
            size += sum(len(t.encode("utf-8", "replace")) for s in samples for t in s.values())
            size += sum(4 * t.count(c) for s in samples for t in s.values() for c in "<>&\"'")
            if blocks and size > MAX_BYTES:
                break
            after = main.get(record["step"], "")
            blocks.append({"step": f"{record['step']:,}", "after": after, "samples": samples})
        left = len(records) - len(blocks)
        return {"blocks": blocks, "left": f"{left:,}" if left else ""}


def _sample(sample: Mapping[str, Any]) -> dict[str, str]:
    prompt, text = str(sample.get("prompt", "")), str(sample.get("text", ""))
    text = text.removeprefix(prompt)
    cut = " …" if len(text) > MAX_CHARS else ""
    return {"prompt": prompt[:MAX_CHARS], "text": text[:MAX_CHARS] + cut}
