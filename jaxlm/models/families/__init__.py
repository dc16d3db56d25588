"""The families: each a file of presets, a map of its Hugging Face config, and a table of tensors.

    family = family_of("llama")
    config = family.from_hf(json.loads(Path("config.json").read_text()))
    config = preset("llama-3.1-8b")

A new family is one file and a line in `FAMILIES`. Shared code asks this table and never a name.
"""

from __future__ import annotations

from jaxlm.core.config import UserError, import_name, suggest
from jaxlm.core.errors import shown
from jaxlm.core.types import ModelConfig
from jaxlm.models.families.base import Family

FAMILIES: dict[str, str] = {  # name -> "module:Family"
    "gpt2": "jaxlm.models.families.gpt2:FAMILY",
    "llama": "jaxlm.models.families.llama:FAMILY",
    "mistral": "jaxlm.models.families.mistral:FAMILY",
    "qwen2": "jaxlm.models.families.qwen:FAMILY",
    "qwen3": "jaxlm.models.families.qwen:QWEN3",
    "mixtral": "jaxlm.models.families.mixtral:FAMILY",
    "qwen3_moe": "jaxlm.models.families.qwen_moe:FAMILY",
    "deepseek_v2": "jaxlm.models.families.deepseek:DEEPSEEK_V2",
    "deepseek_v3": "jaxlm.models.families.deepseek:FAMILY",
    "gemma2": "jaxlm.models.families.gemma:FAMILY",
    "gemma3": "jaxlm.models.families.gemma:GEMMA3_TEXT",
    "gemma3_images": "jaxlm.models.families.gemma:GEMMA3_IMAGES",
    "smollm3": "jaxlm.models.families.smollm:FAMILY",
    "bert": "jaxlm.models.families.bert:FAMILY",
    "roberta": "jaxlm.models.families.bert:ROBERTA",
    "t5": "jaxlm.models.families.t5:FAMILY",
    "glm": "jaxlm.models.families.glm_infilling:FAMILY",
    "chatglm": "jaxlm.models.families.glm:FAMILY",
    "glm4": "jaxlm.models.families.glm:GLM4",
}


def family_of(name: str) -> Family:
    """The family called `name`; raises `UserError` with the nearest one."""
    if name not in FAMILIES:
        raise UserError(f"family {name!r}: not known; {suggest(name, FAMILIES)}")
    return import_name(FAMILIES[name])


def families() -> list[Family]:
    """All families, in the order of the table."""
    return [family_of(name) for name in FAMILIES]


def family_of_architecture(architecture: str) -> Family:
    """The family of a class of Hugging Face transformers ("LlamaForCausalLM")."""
    for family in families():
        if architecture in family.classes:
            return family
        if architecture in family.refused:
            raise UserError(f"config.json: {architecture} {family.refused[architecture]}")
    known = sorted(name for family in families() for name in family.classes)
    raise UserError(
        f"config.json: architecture {shown(architecture)} is of no known family; "
        f"{suggest(architecture, known)}"
    )


def preset(name: str) -> ModelConfig:
    """The config of a published model ("gpt2", "llama-3.1-8b"); raises `UserError`."""
    found = {key: family for family in families() for key in family.presets}
    if name not in found:
        raise UserError(f"model.preset: there is no {name!r}; {suggest(name, found)}")
    return found[name].presets[name]
