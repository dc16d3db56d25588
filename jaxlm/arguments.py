"""The words of the command line: its verbs, their options, their help.

    arguments = parse(["train", "run.yaml", "train.steps=3", "--process-id", "0"])
    arguments.verb, arguments.overrides     # "train", ["train.steps=3"]

Options and settings may stand in any order. Nothing but the standard library is imported here.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jaxlm.exit_codes import MISTAKE, TABLE

DESCRIPTION = "Train every kind of language model, and never lose a run."


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The verb and its options. Ends the process where help is asked for, or on a mistake."""
    words = list(sys.argv[1:] if argv is None else argv)
    top = _Parser(
        prog="jaxlm",
        description=DESCRIPTION,
        epilog=_examples(
            ("train configs/quickstart.yaml", "the main job: trains, evaluates, writes a report"),
            ("train configs/quickstart.yaml train.steps=50 model.num_layers=2", "other settings"),
            ("resume runs/quickstart", "goes on where a run was stopped"),
            ('generate runs/quickstart --prompt "ROMEO. "', "writes text"),
            ("config show configs/quickstart.yaml", "every setting and what it means"),
        )
        + f"\n\n{TABLE}\n\n`jaxlm VERB --help` says more of each.",
    )
    from jaxlm import __version__

    top.add_argument("--version", action="version", version=f"jaxlm {__version__}")
    verbs = top.add_subparsers(metavar="VERB", title="verbs", parser_class=_Parser)
    parsers = {name: add(verbs, name) for name, add in VERBS.items()}
    if not words:
        top.print_help()
        raise SystemExit(MISTAKE)
    if words[0].startswith("-"):
        top.parse_args(words[:1])  # --help, --version, or an error
    if words[0] not in parsers:
        near = difflib.get_close_matches(words[0], parsers, n=1)
        mend = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(parsers)}"
        top.error(f"{words[0]!r} is no verb; {mend}")
    arguments = parsers[words[0]].parse_intermixed_args(words[1:])
    arguments.verb = words[0]
    return arguments


class _Parser(argparse.ArgumentParser):
    """One line for a mistake, as everywhere else; examples stay as they are laid out."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        # the settings are optional, which argparse does not see where words and options mix
        message = message.replace(", key.sub=value", "")
        hint = "" if "; " in message else f"; `{self.prog} --help` shows what there is"
        print(f"error: {message}{hint}", file=sys.stderr)
        raise SystemExit(MISTAKE)


# -------------------------------------------------------------------------------------------- verbs


def _train(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "train the run of a config; goes on where it was stopped",
        "Trains the run of a config, from the start or from its newest checkpoint. A folder that\n"
        "holds another config's run is never written to.",
        ("train configs/quickstart.yaml", "keeps the run in runs/quickstart"),
        ("train configs/quickstart.yaml run_dir=/data/a optimizer.learning_rate=3e-4", ""),
        ("train configs/quickstart.yaml mesh.fsdp=4 mesh.tensor=2", "on eight devices"),
        codes=True,
    )
    _add_config(verb)
    _add_processes(verb)
    return verb


def _finetune(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "start a second stage from the weights of a run (init.from=RUN_DIR)",
        "Starts a run with the weights, model and tokenizer of another run; data, objective and\n"
        "optimizer are the config's.",
        ("finetune configs/finetune/sentiment_en.yaml init.from=runs/quickstart", ""),
        codes=True,
    )
    _add_config(verb)
    _add_processes(verb)
    return verb


def _resume(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "go on with a run, on any mesh",
        "Goes on from a run's newest good checkpoint, with the config that the run keeps. The\n"
        "mesh may be another than before.",
        ("resume runs/quickstart", ""),
        ("resume runs/quickstart mesh.fsdp=2", "on another mesh"),
        codes=True,
    )
    _add_run(verb)
    _add_overrides(verb)
    _add_processes(verb)
    return verb


def _launch(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "start a run on a TPU pod, GKE, Slurm, SkyPilot, GPUs or in local processes",
        "Starts the machines that a launch file names, trains the config on all of them, shows\n"
        "the log, starts again from the last checkpoint what was preempted or failed, and removes\n"
        "the machines when the run has ended. With --action it does one part of that alone.",
        ("launch launch/tpu_vm.yaml configs/quickstart.yaml --dry-run", "prints every command"),
        ("launch launch/slurm.yaml configs/quickstart.yaml train.steps=500", "other settings"),
        ("launch launch/gke.yaml configs/quickstart.yaml --action logs", "follows a run"),
        ("launch local configs/quickstart.yaml --set processes=4 --set devices=2", "here"),
        codes=True,
    )
    verb.add_argument("target", metavar="TARGET", help="a launch file, or local or gpu_host")
    _add_config(verb)
    verb.add_argument(
        "--action",
        choices=("create", "queue", "run", "logs", "status", "delete"),
        help="one part alone: make the machines, ask for them without waiting, train, follow the "
        "log, say how it stands, remove them",
    )
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="a setting over the launch file's, such as zone=us-east5-b; may be given again",
    )
    verb.add_argument("--dry-run", action="store_true", help="print what would be run, run nothing")
    return verb


def _generate(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "write text with a trained model",
        "Continues one or several prompts with a run's newest checkpoint.",
        ('generate runs/quickstart --prompt "ROMEO. " --temperature 0.5', ""),
        ("generate runs/quickstart --prompt A --prompt B --json", "a line of JSON for each"),
        ("generate runs/quickstart --prompt A --beams 4", "the likeliest text of a search"),
        ("generate runs/large --prompt A --draft runs/small", "sooner, with a small model's help"),
    )
    _add_run(verb)
    verb.add_argument(
        "--prompt",
        action="append",
        help="text to continue; several make a batch; none: from nothing",
    )
    verb.add_argument(
        "--max-tokens", type=_whole, default=200, metavar="N", help="length of a text (default 200)"
    )
    verb.add_argument("--temperature", type=_ratio, metavar="X", help="0 is greedy (default 0.8)")
    verb.add_argument("--top-k", type=_whole, metavar="K", help="draw from the K likeliest tokens")
    verb.add_argument(
        "--top-p", type=_share, metavar="P", help="draw from the likeliest of total probability P"
    )
    verb.add_argument(
        "--seed", type=_count, default=0, metavar="N", help="of the draws (default 0)"
    )
    verb.add_argument(
        "--beams",
        type=_whole,
        default=1,
        metavar="N",
        help="search for the likeliest text with N beams; nothing is drawn",
    )
    verb.add_argument(
        "--length-penalty",
        type=_ratio,
        metavar="X",
        help="of --beams: log p is divided by length ** X (default 1)",
    )
    verb.add_argument(
        "--draft",
        metavar="RUN_DIR",
        help="a smaller run of the same tokenizer that guesses tokens ahead; the text is the same",
    )
    verb.add_argument(
        "--num-drafts", type=_whole, metavar="N", help="of --draft: tokens guessed (default 4)"
    )
    _add_step(verb)
    _add_json(verb)
    _add_overrides(verb)
    return verb


def _eval(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "measure a run on its whole validation split",
        "Loss, perplexity and bits per byte; for classes accuracy, F1 and the confusion table.",
        ("eval runs/quickstart", ""),
        ("eval runs/quickstart --step 200 --json", "an earlier checkpoint, for a program"),
    )
    _add_run(verb)
    _add_step(verb)
    _add_json(verb)
    _add_overrides(verb)
    return verb


def _report(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "write report.html of a run",
        "Writes report.html of a run, one file that opens offline, and prints where it is.",
        ("report runs/quickstart", ""),
    )
    _add_run(verb)
    return verb


def _info(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "what a run directory holds",
        "Step, parameters and their SHA-256, configuration's SHA-256, data position, checkpoints.",
        ("info runs/quickstart", ""),
        ("info runs/quickstart --json", "for a program"),
    )
    _add_run(verb)
    _add_json(verb)
    return verb


def _plan(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "tell of a run on chips that are not here: room, time, cost, what to change",
        "Compiles the train step of a config for a TPU topology (needs libtpu, no TPU) and tells\n"
        "whether it fits, what holds the memory, how long a step takes and what bounds it. For\n"
        "GPUs, and with --analytic, a model in closed form answers, and says so. No data is read.",
        ("plan CONFIG --topology v5p:4x4x8", "one slice"),
        ("plan CONFIG --topology v6e:16x16 --slices 2 --tokens 1T", "with days and cost"),
        ("plan CONFIG --topology v5e:16x16 --search --out best", "best.yaml, .tsv and .html"),
        ("plan CONFIG --topology h100:16x8", "16 nodes of 8 GPUs"),
    )
    _add_config(verb)
    verb.add_argument(
        "--topology",
        metavar="CHIP:SHAPE",
        help="such as v5p:4x4x8 or h100:16x8 (default: the config's mesh.topology)",
    )
    verb.add_argument(
        "--slices", type=_whole, default=1, metavar="N", help="of that shape each (default 1)"
    )
    verb.add_argument("--search", action="store_true", help="look for a better setting")
    verb.add_argument(
        "--compile-best", type=_whole, metavar="N", help="of a search, how many to compile (3)"
    )
    verb.add_argument(
        "--tokens",
        type=_tokens,
        metavar="N",
        help="budget for days and cost, such as 300B (default: those of train.steps)",
    )
    verb.add_argument("--price", type=_ratio, metavar="USD", help="of a chip-hour (default: list)")
    verb.add_argument("--analytic", action="store_true", help="compile nothing")
    verb.add_argument(
        "--quick", action="store_true", help="compile sooner, without optimizations: a guide"
    )
    verb.add_argument("--out", metavar="STEM", help="write STEM.tsv and STEM.html")
    verb.add_argument("--save", metavar="FILE", help="keep the compiled step for train.compiled")
    _add_json(verb)
    return verb


def _import(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "make a run of a model in Hugging Face's format",
        "Reads config.json, safetensors and the tokenizer of a folder, and makes a run directory\n"
        "that can be used, fine-tuned from and exported. Pickles (.bin, .pt) are never loaded.",
        ("import hf downloads/gpt2 --out runs/gpt2", ""),
        ("import hf downloads/llama --out runs/llama mesh.fsdp=4", "over four devices"),
    )
    verb.add_argument("format", choices=("hf",))
    verb.add_argument("folder", metavar="DIR", help="the folder with config.json")
    verb.add_argument("--out", required=True, metavar="RUN_DIR", help="a new folder")
    verb.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        help="of activations and matmuls, short for model.dtype; parameters are float32",
    )
    _add_overrides(verb)
    _add_processes(verb)
    return verb


def _export(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "write a run in Hugging Face's format",
        "Writes config.json, safetensors and the tokenizer, for transformers and others to load.\n"
        "Averaged weights are taken where the run keeps them.",
        ("export hf runs/quickstart --out out/quickstart --family llama", ""),
        ("export hf runs/gpt2 --out out/gpt2 --dtype bfloat16 --max-shard-size 500MB", ""),
    )
    verb.add_argument("format", choices=("hf",))
    _add_run(verb)
    verb.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    _add_step(verb)
    verb.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "float64"),
        help="of the tensors (default: that of the import, else float32)",
    )
    verb.add_argument("--family", metavar="NAME", help="whose format (default: model.family)")
    verb.add_argument(
        "--max-shard-size",
        type=_size,
        default=5 * 10**9,
        metavar="SIZE",
        help="of a file, such as 500MB (default 5GB)",
    )
    return verb


def _presets(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "list the published models that model.preset names",
        "Every preset with its family, parameters and sizes. Use one by `model: {preset: NAME}`\n"
        "in a config, or model.preset=NAME; other fields of model lie over its values.",
        ("presets", ""),
    )
    _add_json(verb)
    return verb


def _data(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "prepare the data of a config, or look at its rows",
        "`prepare` fetches and tokenises what a config trains on, and prints the manifest.\n"
        "`inspect` prints real rows, decoded, with their documents and the share of padding.",
        ("data prepare configs/quickstart.yaml", "before a long run, or where there is a network"),
        ("data inspect configs/quickstart.yaml --split validation --rows 2", ""),
    )
    verb.add_argument("action", choices=("prepare", "inspect"))
    _add_config(verb)
    verb.add_argument("--split", help="inspect: train or validation (default: all)")
    verb.add_argument(
        "--rows", type=_whole, default=3, metavar="N", help="inspect: how many (default 3)"
    )
    verb.add_argument(
        "--workers", type=_whole, metavar="N", help="processes that tokenise (default: this one)"
    )
    return verb


def _tokenizer(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "train the tokenizer of a config and save it",
        "Trains the tokenizer of a config on the training texts of its data, and saves it to a\n"
        "folder. Use it by tokenizer.type=saved tokenizer.path=DIR.",
        ("tokenizer train configs/quickstart.yaml --out my_tokenizer", ""),
        ("tokenizer train configs/quickstart.yaml --out big tokenizer.vocab_size=8192", ""),
    )
    verb.add_argument("action", choices=("train",))
    _add_config(verb)
    verb.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    return verb


def _config(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "show a config in full, with meanings and origins",
        "Every setting of a config: its value, where that came from, and what it means.",
        ("config show configs/quickstart.yaml train.steps=50", ""),
        ("config show configs/quickstart.yaml --yaml > mine.yaml", "a file that can be run"),
    )
    verb.add_argument("action", choices=("show",))
    _add_config(verb)
    verb.add_argument("--yaml", action="store_true", help="plain YAML that can be run again")
    return verb


def _doctor(verbs: Any, name: str) -> argparse.ArgumentParser:
    verb = _verb(
        verbs,
        name,
        "versions, devices, memory and a self-test",
        "Looks at this machine: versions, devices, memory, disk, and a two-second self-test.",
        ("doctor", ""),
    )
    _add_json(verb)
    return verb


VERBS: dict[str, Callable[[Any, str], argparse.ArgumentParser]] = {
    "train": _train,
    "finetune": _finetune,
    "resume": _resume,
    "launch": _launch,
    "generate": _generate,
    "eval": _eval,
    "report": _report,
    "info": _info,
    "plan": _plan,
    "import": _import,
    "export": _export,
    "presets": _presets,
    "data": _data,
    "tokenizer": _tokenizer,
    "config": _config,
    "doctor": _doctor,
}


# ------------------------------------------------------------------------------------- common parts


def _verb(
    verbs: Any, name: str, summary: str, text: str, *examples: tuple[str, str], codes: bool = False
) -> argparse.ArgumentParser:
    epilog = _examples(*examples) + (f"\n\n{TABLE}" if codes else "")
    return verbs.add_parser(name, help=summary, description=text, epilog=epilog)


def _examples(*examples: tuple[str, str]) -> str:
    lines = [f"  jaxlm {command}" + (f"    # {why}" if why else "") for command, why in examples]
    return "\n".join(["examples:", *lines])


def _add_config(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("config", metavar="CONFIG", help="a YAML file")
    _add_overrides(verb)


def _add_run(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("run_dir", metavar="RUN_DIR", help="the folder that a run is kept in")


def _add_overrides(verb: argparse.ArgumentParser) -> None:
    text = "dotted settings over the file's, such as optimizer.learning_rate=1e-3"
    verb.add_argument("overrides", nargs="*", metavar="key.sub=value", help=text)


def _add_processes(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("several processes (found by itself on TPU pods and Slurm)")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--num-processes", type=_whole, metavar="N", help="how many there are")
    group.add_argument("--process-id", type=_count, metavar="I", help="which this is, from 0")


def _add_step(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--step", type=_count, metavar="N", help="checkpoint to use (default: newest)"
    )


def _add_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print JSON, for a program")


def _number(kind: type, good: Callable[[Any], bool], what: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not good(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}; write one")
        return value

    return read


def _size(text: str) -> int:
    """Bytes from "5GB", "500MB", "10KB" or a plain number; powers of 1000, as Hugging Face's."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    unit = text[-2:].upper()
    digits = text[:-2] if unit in units else text
    if not digits.isdecimal() or int(digits) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write one, such as 500MB or 5GB")
    return int(digits) * units.get(unit, 1)


def _tokens(text: str) -> float:
    """A number of tokens from "300B", "1.5T" or a plain number."""
    units = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
    unit = text[-1:].upper()
    try:
        value = float(text[:-1] if unit in units else text) * units.get(unit, 1)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens; write one, as in 300B")
    return value


_whole = _number(int, lambda v: v >= 1, "a whole number from 1")
_count = _number(int, lambda v: 0 <= v < 2**31, "a whole number from 0")
_ratio = _number(float, lambda v: 0 <= v < float("inf"), "a number from 0")
_share = _number(float, lambda v: 0 < v <= 1, "a number above 0, up to 1")
