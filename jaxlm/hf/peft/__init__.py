"""Adapters in the format of PEFT (github.com/huggingface/peft): one folder of two files.

    export_adapter(Path("runs/lora"), Path("out/lora"))
    import_adapter(Path("downloads/lora"), Path("runs/llama"), Path("runs/lora"))

adapter_config.json says what is adapted. adapter_model.safetensors has the A and B of each module
of PyTorch, [rank, inputs] and [outputs, rank]. Names of modules are those of the family's tensors.
"""

from jaxlm.hf.peft.exporting import export_adapter
from jaxlm.hf.peft.importing import import_adapter

__all__ = ["export_adapter", "import_adapter"]
