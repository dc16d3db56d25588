"""In and out of Hugging Face's format: a folder of config.json, safetensors and a tokenizer.

    import_model("downloads/gpt2", "runs/gpt2", report=print)    # a run directory
    export_run("runs/gpt2", "out/gpt2", report=print)            # a folder that transformers loads

What is read and what is written is a family's table (`jaxlm.models.families`); nothing here knows a
family. No pickle is ever loaded.
"""

from jaxlm.hf.exporting import export_run
from jaxlm.hf.importing import import_model

__all__ = ["export_run", "import_model"]
