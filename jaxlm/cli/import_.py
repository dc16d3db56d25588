"""`jaxlm import hf|peft DIR --out RUN_DIR`: makes a run from what other libraries wrote."""

from __future__ import annotations

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import PATH, Choice
from jaxlm.cli.shared.verb import USING, verb
from jaxlm.core.errors import UserError


@verb(
    "make a run from a model in Hugging Face's format",
    section=USING,
    examples=(
        ("import hf downloads/gpt2 --out runs/gpt2", ""),
        ("import hf downloads/llama --out runs/llama mesh.fsdp=4", "over four devices"),
        ("import peft downloads/lora --base runs/llama --out runs/lora", "an adapter of PEFT"),
    ),
    works=True,
)
@options.argument("form", "the format", type=Choice(("hf", "peft")), metavar="hf|peft")
@options.argument(
    "folder", "the folder with config.json, or adapter_config.json", type=PATH, metavar="DIR"
)
@options.overrides
@click.option("--out", type=PATH, required=True, metavar="RUN_DIR", help="a new folder")
@click.option(
    "--dtype",
    type=Choice(("bfloat16", "float32")),
    metavar="DTYPE",
    help="bfloat16 or float32: dtype of activations and matmuls (model.dtype), independent of "
    "the files' dtype; default auto: bfloat16 on accelerators, float32 on a CPU; parameters are "
    "float32",
)
@click.option(
    "--base",
    type=PATH,
    metavar="DIR",
    help="with peft: the model that the adapter is for, a run or a folder in Hugging Face's format",
)
@options.processes
def command(
    form: str,
    folder: str,
    overrides: tuple[str, ...],
    out: str,
    dtype: str | None,
    base: str | None,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> None:
    """Reads config.json, safetensors and the tokenizer of a folder, and writes a run directory to
    generate with, fine-tune from and export. Pickles (.bin, .pt) are never loaded. `import peft`
    makes a run with an adapter (LoRA or DoRA) from what PEFT saved, and its base.
    """
    from pathlib import Path

    from jaxlm.distributed.processes import failing_together, init_processes
    from jaxlm.hf.importing import import_model
    from jaxlm.hf.peft import import_adapter

    if (form == "peft") != (base is not None):
        raise UserError("--base: is for `import peft`, which needs it: name the adapter's model")
    init_processes(coordinator, num_processes, process_id)
    words = list(overrides)
    with failing_together():
        if base is None:
            line = import_model(Path(folder), Path(out), words, dtype=dtype, report=say)
        else:
            line = import_adapter(
                Path(folder), Path(base), Path(out), words, dtype=dtype, report=say
            )
    print(line)
