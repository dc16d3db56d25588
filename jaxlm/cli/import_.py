"""`jaxlm import hf|peft|vectors PATH --out RUN_DIR`: a run from what other programs wrote."""

from __future__ import annotations

import click

from jaxlm.cli.shared import options
from jaxlm.cli.shared.training import say
from jaxlm.cli.shared.values import PATH, Choice
from jaxlm.cli.shared.verb import USING, verb
from jaxlm.core.errors import UserError

LAYOUTS = ("glove", "word2vec", "fasttext", "word2vec-binary")


@verb(
    "make a run from a model in Hugging Face's format",
    section=USING,
    examples=(
        ("import hf downloads/gpt2 --out runs/gpt2", ""),
        ("import hf downloads/llama --out runs/llama mesh.fsdp=4", "over four devices"),
        ("import peft downloads/lora --base runs/llama --out runs/lora", "an adapter of PEFT"),
        ("import vectors glove.6B.50d.txt --out runs/glove_6b", "a file of word vectors"),
    ),
    works=True,
)
@options.argument(
    "form", "the format", type=Choice(("hf", "peft", "vectors")), metavar="hf|peft|vectors"
)
@options.argument(
    "source",
    "the folder with config.json, or adapter_config.json; a file of word vectors",
    type=PATH,
    metavar="PATH",
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
@click.option(
    "--format",
    "layout",
    type=Choice(LAYOUTS),
    metavar="NAME",
    help=f"with vectors: {', '.join(LAYOUTS)} (default: recognised)",
)
@click.option(
    "--words",
    type=PATH,
    metavar="FILE",
    help="with vectors in a .npy file: its words, one a line, or the column of a Parquet file",
)
@options.processes
def command(
    form: str,
    source: str,
    overrides: tuple[str, ...],
    out: str,
    dtype: str | None,
    base: str | None,
    layout: str | None,
    words: str | None,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> None:
    """Reads config.json, safetensors and the tokenizer of a folder, and writes a run directory to
    generate with, fine-tune from and export. Pickles (.bin, .pt) are never loaded. `import peft`
    makes a run with an adapter (LoRA or DoRA) from what PEFT saved, and its base. `import vectors`
    makes a run of word vectors from a file of word2vec, GloVe or fastText, or of numpy.
    """
    from pathlib import Path

    from jaxlm.distributed.processes import failing_together, init_processes
    from jaxlm.hf.importing import import_model
    from jaxlm.hf.peft import import_adapter

    if (form == "peft") != (base is not None):
        raise UserError("--base: is for `import peft`, which needs it: name the adapter's model")
    if form == "vectors":
        if overrides or dtype:
            raise UserError("import vectors: a table of vectors has no settings; leave them out")
        print(_vectors(source, out, layout, words))
        return
    if layout or words:
        raise UserError("--format, --words: are for `import vectors`; leave them out")
    init_processes(coordinator, num_processes, process_id)
    settings = list(overrides)
    with failing_together():
        if base is None:
            line = import_model(Path(source), Path(out), settings, dtype=dtype, report=say)
        else:
            line = import_adapter(
                Path(source), Path(base), Path(out), settings, dtype=dtype, report=say
            )
    print(line)


def _vectors(file: str, out: str, layout: str | None, words: str | None) -> str:
    import os

    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # host work: an accelerator may be in use
    from jaxlm.api.importing_vectors import import_vectors

    return import_vectors(file, out, form=layout, words=words, report=say)
