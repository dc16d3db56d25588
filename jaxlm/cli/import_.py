"""`jaxlm import hf DIR --out RUN_DIR`: makes a run from a model in Hugging Face's format."""

from __future__ import annotations

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import PATH, Choice
from jaxlm.cli.shared.verb import USING, verb


@verb(
    "make a run from a model in Hugging Face's format",
    section=USING,
    examples=(
        ("import hf downloads/gpt2 --out runs/gpt2", ""),
        ("import hf downloads/llama --out runs/llama mesh.fsdp=4", "over four devices"),
    ),
    works=True,
)
@options.argument("form", "the format", type=Choice(("hf",)), metavar="hf")
@options.argument("folder", "the folder with config.json", type=PATH, metavar="DIR")
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
@options.processes
def command(
    form: str,
    folder: str,
    overrides: tuple[str, ...],
    out: str,
    dtype: str | None,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> None:
    """Reads config.json, safetensors and the tokenizer of a folder, and writes a run directory to
    generate with, fine-tune from and export. Pickles (.bin, .pt) are never loaded.
    """
    from pathlib import Path

    from jaxlm.distributed.processes import failing_together, init_processes
    from jaxlm.hf import import_model

    init_processes(coordinator, num_processes, process_id)
    with failing_together():
        line = import_model(Path(folder), Path(out), list(overrides), dtype=dtype, report=say)
    print(line)
