"""The command line: verbs only. Each parses its words, builds what they name and calls it.

Nothing heavy is imported before a verb needs it, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxlm.config import Resolved
    from jaxlm.run import RunConfig

OVERRIDES = "dotted settings, such as optimizer.learning_rate=1e-3 mesh.fsdp=4"
EXIT_CODES = """exit codes: 0 done; 2 a mistake to mend; 65 the loss was not finite; 74 the last checkpoint was
not written; 75 stopped by a signal and saved, `jaxlm resume` goes on"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns its exit code."""
    arguments = _parser().parse_args(argv)
    from jaxlm.config import UserError

    try:
        return int(arguments.run(arguments) or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 0


# ------------------------------------------------------------------------------------------- training


def _train(arguments: Any) -> int:
    from jaxlm.run import load_run

    return _run_training(arguments, lambda: load_run(arguments.config, arguments.overrides))


def _finetune(arguments: Any) -> int:
    from jaxlm.config import UserError
    from jaxlm.run import load_run

    def load() -> Resolved[RunConfig]:
        resolved = load_run(arguments.config, arguments.overrides)
        if resolved.config.init.from_ is None:
            raise UserError("init.from: is required to fine-tune; add init.from=RUN_DIR")
        return resolved

    return _run_training(arguments, load)


def _resume(arguments: Any) -> int:
    from jaxlm.run import load_saved

    load = lambda: load_saved(arguments.run_dir, arguments.overrides)  # noqa: E731
    return _run_training(arguments, load, must_exist=True)


def _run_training(arguments: Any, load: Any, must_exist: bool = False) -> int:
    resolved = load()  # before the processes meet, so that a misspelt key is told at once
    from jaxlm.mesh import init_processes
    from jaxlm.train.loop import train

    init_processes(arguments.coordinator, arguments.num_processes, arguments.process_id)
    outcome = train(resolved, must_exist=must_exist)
    if arguments.process_id in (None, 0):
        print(outcome.message)
        _print_figures(outcome.result)
        print(f"report: {resolved.config.run_dir}/report.html")
    return outcome.code


def _print_figures(result: dict[str, Any]) -> None:
    for name, value in result.get("final", {}).items():
        print(f"  {name:24} {value:.4f}" if isinstance(value, float) else f"  {name:24} {value}")
    if "confusion" in result:
        classes, table = result["confusion"]["classes"], result["confusion"]["table"]
        width = max(map(len, [*classes, "true / predicted"]))
        print("  " + "true / predicted".ljust(width) + "".join(c.rjust(12) for c in classes))
        for name, row in zip(classes, table, strict=True):
            print("  " + name.ljust(width) + "".join(str(n).rjust(12) for n in row))


# ------------------------------------------------------------------------------------ using a run


def _generate(arguments: Any) -> int:
    from jaxlm.config import UserError
    from jaxlm.generate import Sampling, write_texts
    from jaxlm.train.session import load_trained

    config, program, params, tokenizer, step = load_trained(
        arguments.run_dir, overrides=tuple(arguments.overrides), step=arguments.step, report=_say
    )
    if not config.objective.generates:
        raise UserError(
            f"{arguments.run_dir}: its objective is {_objective(config)}, which writes no text; "
            "use `jaxlm eval`, or generate from a causal_lm run"
        )
    sampling = Sampling(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
    )
    prompts = arguments.prompt or [""]
    texts = write_texts(program, params, tokenizer, prompts, sampling, seed=arguments.seed)
    for prompt, text in zip(prompts, texts, strict=True):
        if arguments.json:
            print(json.dumps({"step": step, "prompt": prompt, "text": text}, ensure_ascii=False))
        else:
            print(f"{prompt}{text}" + ("\n" + "-" * 40 if len(prompts) > 1 else ""))
    return 0


def _eval(arguments: Any) -> int:
    from jaxlm.evaluate import evaluate_run

    step, values, tables = evaluate_run(
        arguments.run_dir, overrides=tuple(arguments.overrides), step=arguments.step, report=_say
    )
    if arguments.json:
        print(json.dumps({"step": step, "final": values, **tables}))
    else:
        print(f"step {step}, whole validation split")
        _print_figures({"final": values, **tables})
    return 0


def _report(arguments: Any) -> int:
    from jaxlm.report import write_report

    print(write_report(_existing_run(arguments.run_dir)))
    return 0


def _info(arguments: Any) -> int:
    from jaxlm.info import describe_run, render

    found = describe_run(_existing_run(arguments.run_dir))
    print(json.dumps(found, indent=1) if arguments.json else render(found))
    return 0


def _existing_run(name: str) -> Any:
    from pathlib import Path

    from jaxlm.config import UserError

    if not (Path(name) / "config.yaml").is_file():
        raise UserError(f"{name}: not a run directory (no config.yaml); `jaxlm train CONFIG` makes one")
    return Path(name)


# ---------------------------------------------------------------------------------- data, tokenizer


def _data(arguments: Any) -> int:
    from jaxlm.data.inspect import inspect
    from jaxlm.run import load_run
    from jaxlm.train.session import prepare_data

    config = load_run(arguments.config, arguments.overrides).config
    prepared = prepare_data(config.replace(run_dir=None), _say)
    if arguments.action == "prepare":
        print(json.dumps(prepared.manifest, indent=1, ensure_ascii=False))
        return 0
    size = config.train.batch_size
    for split in prepared.splits if arguments.split is None else [arguments.split]:
        print(inspect(prepared, split, rows=arguments.rows, seed=config.seed, batch_size=size))
    return 0


def _tokenizer(arguments: Any) -> int:
    from pathlib import Path

    from jaxlm.config import UserError
    from jaxlm.run import load_run
    from jaxlm.train.session import prepare_data

    out = Path(arguments.out)
    if out.exists():
        raise UserError(f"{out}: exists already; name a new folder with --out")
    config = load_run(arguments.config, arguments.overrides).config
    tokenizer = prepare_data(config.replace(run_dir=None), _say).tokenizer
    tokenizer.save(out)
    print(f"{out}: {tokenizer.vocab_size} ids, sha256 {tokenizer.fingerprint()}")
    return 0


# ------------------------------------------------------------------------------------------ the rest


def _config(arguments: Any) -> int:
    from jaxlm.config import settings
    from jaxlm.run import load_run

    rows = list(settings(load_run(arguments.config, arguments.overrides)))
    width = min(44, max(len(f"{row.path}: {row.value}") for row in rows))
    for row in rows:
        print(f"{f'{row.path}: {_yaml(row.value)}':{width}}  # {row.meaning}  [{row.source}]")
    return 0


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value


def _doctor(arguments: Any) -> int:
    from jaxlm.doctor import examine, render

    found = examine()
    print(json.dumps(found, indent=1) if arguments.json else render(found))
    return 0 if found["ok"] else 1


def _objective(config: Any) -> str:
    from jaxlm.config import type_name

    return type_name(type(config.objective)) or type(config.objective).__name__


def _say(line: str) -> None:
    """What is not the answer goes to stderr, so that the answer can be piped."""
    print(line, file=sys.stderr)


# ------------------------------------------------------------------------------------------- parsing


def _parser() -> argparse.ArgumentParser:
    from jaxlm import __version__

    parser = argparse.ArgumentParser(
        prog="jaxlm", description="Train every kind of language model, and never lose a run."
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    for name, run, text in (
        ("train", _train, "train the run of a config; goes on where it was stopped"),
        ("finetune", _finetune, "start a second stage from the weights of a run (init.from=RUN_DIR)"),
    ):
        verb = _verb(verbs, name, run, text)
        verb.add_argument("config", metavar="CONFIG", help="a YAML file")
        _add_processes(verb)
    verb = _verb(verbs, "resume", _resume, "go on with a run, on any mesh")
    verb.add_argument("run_dir", metavar="RUN_DIR")
    _add_processes(verb)

    verb = _verb(verbs, "generate", _generate, "write text with a trained model")
    verb.add_argument("run_dir", metavar="RUN_DIR")
    verb.add_argument("--prompt", action="append", help="text to continue; give several for a batch")
    verb.add_argument("--max-tokens", type=_whole, default=200)
    verb.add_argument("--temperature", type=_ratio, default=0.8, help="0 is greedy (default 0.8)")
    verb.add_argument("--top-k", type=_whole, help="draw from the k likeliest tokens")
    verb.add_argument("--top-p", type=_share, help="draw from the likeliest of this total probability")
    verb.add_argument("--seed", type=int, default=0)
    _add_common(verb)

    verb = _verb(verbs, "eval", _eval, "measure a run on its whole validation split")
    verb.add_argument("run_dir", metavar="RUN_DIR")
    _add_common(verb)

    verb = _verb(verbs, "report", _report, "write report.html of a run")
    verb.add_argument("run_dir", metavar="RUN_DIR")

    verb = _verb(verbs, "info", _info, "what a run directory holds")
    verb.add_argument("run_dir", metavar="RUN_DIR")
    verb.add_argument("--json", action="store_true")

    verb = _verb(verbs, "data", _data, "prepare the data of a config, or look at its rows")
    verb.add_argument("action", choices=("prepare", "inspect"))
    verb.add_argument("config", metavar="CONFIG")
    verb.add_argument("--split", help="train or validation; both by default")
    verb.add_argument("--rows", type=_whole, default=3)
    _add_overrides(verb)

    verb = _verb(verbs, "tokenizer", _tokenizer, "train the tokenizer of a config and save it")
    verb.add_argument("action", choices=("train",))
    verb.add_argument("config", metavar="CONFIG")
    verb.add_argument("--out", required=True, help="a new folder")
    _add_overrides(verb)

    verb = _verb(verbs, "config", _config, "show a config in full, with meanings and origins")
    verb.add_argument("action", choices=("show",))
    verb.add_argument("config", metavar="CONFIG")
    _add_overrides(verb)

    verb = _verb(verbs, "doctor", _doctor, "versions, devices, memory and a self-test")
    verb.add_argument("--json", action="store_true")
    return parser


def _verb(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
    verb.set_defaults(run=run)
    return verb


def _add_overrides(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("overrides", nargs="*", metavar="key.sub=value", help=OVERRIDES)


def _add_processes(verb: argparse.ArgumentParser) -> None:
    _add_overrides(verb)
    group = verb.add_argument_group("several processes (found by itself on TPU pods and Slurm)")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--num-processes", type=int)
    group.add_argument("--process-id", type=int)


def _add_common(verb: argparse.ArgumentParser) -> None:
    _add_overrides(verb)
    verb.add_argument("--step", type=int, help="checkpoint to use; the last by default")
    verb.add_argument("--json", action="store_true")


def _number(kind: type, good: Any, what: str) -> Any:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not good(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return parse


_whole = _number(int, lambda v: v >= 1, "a whole number from 1")
_ratio = _number(float, lambda v: v >= 0, "a number from 0")
_share = _number(float, lambda v: 0 < v <= 1, "a number above 0, up to 1")


if __name__ == "__main__":
    sys.exit(main())
