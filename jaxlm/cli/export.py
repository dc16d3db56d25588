"""`jaxlm export hf|peft|vectors RUN_DIR --out PATH`: writes a run for other libraries."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import PATH, SIZE, Choice
from jaxlm.cli.shared.verb import USING, verb
from jaxlm.core.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = ("float32", "bfloat16", "float16", "float64")
LAYOUTS = ("word2vec", "word2vec-binary", "glove", "fasttext")


@verb(
    "write a run in Hugging Face's format",
    section=USING,
    examples=(
        ("export hf runs/quickstart --out out/quickstart --family llama", ""),
        ("export hf runs/gpt2 --out out/gpt2 --dtype bfloat16 --max-shard-size 500MB", ""),
        ("export peft runs/lora --out out/lora", "the adapter alone, for PEFT"),
        ("export vectors runs/glove --out glove.txt --format glove", "word vectors"),
    ),
    works=True,
)
@options.argument(
    "form", "the format", type=Choice(("hf", "peft", "vectors")), metavar="hf|peft|vectors"
)
@options.run_dir
@options.overrides
@click.option(
    "--out", type=PATH, required=True, metavar="PATH", help="a new folder; a file of vectors"
)
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
    "--check/--no-check",
    default=True,
    help="read back what was written, and compare its logits or vectors",
)
@click.option(
    "--format",
    "layout",
    type=Choice(LAYOUTS),
    metavar="NAME",
    help=f"with vectors: {', '.join(LAYOUTS)} (default word2vec)",
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
    layout: str | None,
) -> None:
    """Writes config.json, safetensors and the tokenizer, for transformers and other libraries. If
    the run has averaged weights, it writes those; an adapter is merged into its base, which
    init.from=DIR names if it was moved. `export peft` writes the adapter alone. What was written is
    read back: its logits may differ from the run's by 1e-4 of the largest one (float16: 0.02,
    bfloat16: 0.1), else nothing is kept. `export vectors` writes a file of word vectors, and reads
    it back: its words and numbers must be the run's, up to the 5 digits of fasttext.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"  # host work: an accelerator may be in use by a training run
    from pathlib import Path

    from jaxlm.hf.exporting import export_run
    from jaxlm.hf.peft import export_adapter
    from jaxlm.run import saved_config

    run = saved_config(run_dir).parent
    if form == "vectors":
        print(_vectors(run, Path(out), layout or "word2vec", overrides, step, check))
        return
    if layout is not None:
        raise UserError("--format: is for `export vectors`; leave it out")
    shared: dict[str, Any] = {"overrides": overrides, "step": step, "family": family}
    shared |= {"check": check, "report": say}
    if form == "peft":
        print(export_adapter(run, Path(out), base=base_name, **shared))
    else:
        print(export_run(run, Path(out), dtype=dtype, max_bytes=max_shard_size, **shared))


def _vectors(
    run: Path,
    out: Path,
    layout: str,
    overrides: tuple[str, ...],
    step: int | str | None,
    check: bool,
) -> str:
    from jaxlm.api.run import load
    from jaxlm.vectors.files import write_vectors

    if overrides:
        raise UserError("export vectors: takes no settings; leave them out")
    if out.exists():
        raise UserError(f"--out: {out} exists already; name a new file")
    table = load(run, step=step).vectors
    write_vectors(table, out, layout, check=check, report=say)
    return f"{out}: {len(table):,} words, {table.size} dimensions, {layout}"
