"""The display of measures of older runs, which have no measures.json.

This file alone knows names of metrics, and no run of today needs a line of it.
"""

from __future__ import annotations

from typing import Any

_RATE = {"better": "higher", "show": "headline", "summary": "median"}

# {key of metrics.jsonl or result.json: how it is shown, as in `jaxlm.core.measures.Measure`}
OLDER: dict[str, dict[str, Any]] = {
    "eval/loss": {"better": "lower", "show": "headline", "format": ".3f"},
    "eval/bits_per_char": {
        "better": "lower",
        "show": "headline",
        "label": "bits per character",
        "format": ".3f",
    },
    "eval/bits_per_byte": {"better": "lower", "show": "headline", "format": ".3f"},
    "eval/accuracy": {"better": "higher", "show": "headline", "format": ".1%"},
    "eval/macro_f1": {
        "better": "higher",
        "show": "headline",
        "label": "macro F1",
        "format": ".3f",
    },
    "train/loss": {
        "better": "lower",
        "show": "headline",
        "label": "training loss",
        "format": ".3f",
    },
    "train/learning_rate": {"format": "scientific"},
    "train/grad_norm": {"label": "gradient norm"},
    "num_params": {"show": "headline", "label": "parameters", "format": "count"},
    "tokens": {"show": "headline", "format": "count"},
    "param_sha256": {"label": "SHA-256 of the parameters"},
    "config_sha256": {"label": "SHA-256 of the configuration"},
    "train/tokens_per_second": {**_RATE, "label": "tokens/s", "format": "count"},
    "train/mfu": {**_RATE, "label": "MFU", "format": ".1%"},
    "train/data_wait": {
        "better": "lower",
        "label": "waiting for data",
        "format": "percent",
        "summary": "median",
    },
    "train/seconds_per_step": {"better": "lower", "summary": "median"},
}
