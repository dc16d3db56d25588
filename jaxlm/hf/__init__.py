"""In and out of Hugging Face's format: a folder of config.json, safetensors and a tokenizer.

    importing.import_model("downloads/gpt2", "runs/gpt2", report=print)    # a run directory
    exporting.export_run("runs/gpt2", "out/gpt2", report=print)            # transformers loads it

What is read and what is written is a family's table (`jaxlm.models.families`); nothing here knows a
family. No pickle is ever loaded.
"""
