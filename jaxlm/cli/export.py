"""`jaxlm export hf|peft RUN_DIR --out DIR`: writes a run, or its adapter, for other libraries."""

from __future__ import annotations

import os
from typing import Any

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import PATH, SIZE, Choice
from jaxlm.cli.shared.verb import USING, verb

DTYPES = ("float32", "bfloat16", "float16", "float64")


@verb(
    "write a run in Hugging Face's format",
    section=USING,
    examples=(
        ("export hf runs/quickstart --out out/quickstart --family llama", ""),
        ("export hf runs/gpt2 --out out/gpt2 --dtype bfloat16 --max-shard-size 500MB", ""),
        ("export peft runs/lora --out out/lora", "the adapter alone, for PEFT"),
    ),
    works=True,
)
@options.argument("form", "the format", type=Choice(("hf", "peft")), metavar="hf|peft")
@options.run_dir
@options.overrides
@click.option("--out", type=PATH, required=True, metavar="DIR", help="a new folder")
@options.step
@click.option(
    "--dtype",
    type=Choice(DTYPES),
    metavar="DTYPE",
    help=f"{', '.join(DTYPES)}: dtype of the tensors (default: that of the import, else float32)",
)
@click.option("--family", metavar="NAME", help="family of the format (default: model.family)")
@click.option(
    "--max-shard-size",
    type=SIZE,
    default=5 * 10**9,
    metavar="SIZE",
    help="largest size of a file, such as 500MB (default 5GB)",
)
@click.option(
    "--base-name",
    metavar="NAME",
    help="with peft: name or folder of the base model (default: where it was imported from)",
)
@click.option(
    "--check/--no-check", default=True, help="read back what was written, and compare its logits"
)
def command(
    form: str,
    run_dir: str,
    overrides: tuple[str, ...],
    out: str,
    step: int | str | None,
    dtype: str | None,
    family: str | None,
    max_shard_size: int,
    base_name: str | None,
    check: bool,
) -> None:
    """Writes config.json, safetensors and the tokenizer, for transformers and other libraries. If
    the run has averaged weights, it writes those; an adapter is merged into its base, which
    init.from=DIR names if it was moved. `export peft` writes the adapter alone. What was written is
    read back: its logits may differ from the run's by 1e-4 of the largest one (float16: 0.02,
    bfloat16: 0.1), else nothing is kept.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"  # host work: an accelerator may be in use by a training run
    from pathlib import Path

    from jaxlm.hf.exporting import export_run
    from jaxlm.hf.peft import export_adapter
    from jaxlm.run import saved_config

    run = saved_config(run_dir).parent
    shared: dict[str, Any] = {"overrides": overrides, "step": step, "family": family}
    shared |= {"check": check, "report": say}
    if form == "peft":
        print(export_adapter(run, Path(out), base=base_name, **shared))
    else:
        print(export_run(run, Path(out), dtype=dtype, max_bytes=max_shard_size, **shared))
