"""generation_config.json as the defaults of a run's `sample:`.

    read_generation(folder)    # ({"temperature": 0.6, "top_p": 0.9}, {"typical_p": 0.5})

With `do_sample: true` what the file leaves out is as in transformers: temperature 1, top_k 50. With
`do_sample: false` it is greedy. A file that says neither keeps the run's own temperature.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlm.core.sampling import DRAWING
from jaxlm.data.tokenizers.special_tokens import read_json

GENERATION = "generation_config.json"
# {transformers' name: that of `jaxlm.core.sampling.Sampling`}
KNOWN = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",  # vLLM's, which reads them of this file
    "frequency_penalty": "frequency_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "num_beams": "num_beams",
    "length_penalty": "length_penalty",
    "stop_strings": "stop",
}
# What changes no text: ids that are read elsewhere, caches, what is returned, where a draft comes
# from; and the length of prompt and text together, which the model's positions limit here.
_IDLE = """
bos_token_id eos_token_id pad_token_id decoder_start_token_id do_sample max_length
transformers_version _from_model_config use_cache cache_implementation cache_config max_cache_len
output_attentions output_hidden_states output_scores output_logits return_dict_in_generate
num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold
prompt_lookup_num_tokens max_matching_ngram_size is_assistant compile_config disable_compile
assistant_early_exit assistant_lookbehind target_lookbehind low_memory trust_remote_code
"""
IDLE = frozenset(_IDLE.split())
OFF = {  # values of other options that change nothing
    "typical_p": 1.0,
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1.0,
    "num_return_sequences": 1,
    "num_beam_groups": 1,
}


def read_generation(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(values for `sample:`, what the file sets and is not known here) of a folder; both are empty
    where it has no such file. Raises `UserError` for a file that is not JSON.
    """
    said = {k: v for k, v in read_json(folder / GENERATION).items() if v is not None}
    left = {
        key: value
        for key, value in said.items()
        if key not in KNOWN and key not in IDLE and value and value != OFF.get(key)
    }
    found = {name: said[key] for key, name in KNOWN.items() if key in said}
    if isinstance(found.get("stop"), str):
        found["stop"] = [found["stop"]]
    if said.get("do_sample") is True:
        if found.pop("num_beams", 1) != 1:
            left["num_beams"] = said["num_beams"]
        found = {"temperature": 1.0, "top_k": 50, **found}
    elif said.get("do_sample") is False:
        found = {key: v for key, v in found.items() if key not in DRAWING} | {"temperature": 0.0}
    return without_off(found), left


def without_off(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without a top_k of 0 and a min_p of 0, which are transformers' words for none."""
    return {k: v for k, v in found.items() if not (k in ("top_k", "min_p") and v == 0)}
