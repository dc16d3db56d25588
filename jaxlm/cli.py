"""The command line: verbs only. Each builds what its words name and calls it.

Nothing heavy is imported before a verb needs it, so `--help` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jaxlm.arguments import parse
from jaxlm.exit_codes import CTRL_C, MISTAKE

if TYPE_CHECKING:
    from pathlib import Path

    from jaxlm.config import Resolved
    from jaxlm.run import RunConfig


# Verbs whose work is in files: a lost screen does not end it. The others answer on standard output.
WORK = {"train", "finetune", "resume", "launch", "report", "plan", "import", "export"}
WORK |= {"data", "tokenizer"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns its exit code. A bug is not caught."""
    arguments = parse(argv)
    from jaxlm.config import UserError
    from jaxlm.files import described, disk_errors
    from jaxlm.screen import discard, work_without_a_screen
    from jaxlm.xla_flags import order_simulated

    order_simulated()
    works = arguments.verb in WORK
    with work_without_a_screen(*(("stdout", "stderr") if works else ("stderr",))):
        try:
            with disk_errors("" if works else "standard output"):
                code = VERBS[arguments.verb](arguments)
            sys.stdout.flush()
            return code
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.code
        except KeyboardInterrupt:
            return CTRL_C
        except BrokenPipeError:  # the reader of the answer has seen enough
            discard(sys.stdout)
            return 0
        except SystemExit as stop:  # rich's answer to the same
            if not isinstance(stop.__context__, BrokenPipeError):
                raise
            return 0
        except OSError as error:  # of the last flush: the answer has not arrived
            line = described(error, "standard output")
            if line is None:
                raise
            print(f"error: {line}", file=sys.stderr)
            discard(sys.stdout)
            return MISTAKE


# ----------------------------------------------------------------------------------------- training


def _train(arguments: Any) -> int:
    from jaxlm.run import load_run

    return _run_training(arguments, load_run(arguments.config, arguments.overrides))


def _finetune(arguments: Any) -> int:
    from jaxlm.config import UserError
    from jaxlm.run import load_run

    resolved = load_run(arguments.config, arguments.overrides)
    if resolved.config.init.from_ is None:
        raise UserError("init.from: is required to fine-tune; add init.from=RUN_DIR")
    return _run_training(arguments, resolved)


def _resume(arguments: Any) -> int:
    from jaxlm.run import load_saved

    resolved = load_saved(arguments.run_dir, arguments.overrides)
    return _run_training(arguments, resolved, must_exist=True)


def _launch(arguments: Any) -> int:
    from jaxlm.config import to_dict
    from jaxlm.launch.job import Job
    from jaxlm.launch.start import launch
    from jaxlm.launch.target import load_target
    from jaxlm.run import load_run

    target = load_target(arguments.target, arguments.settings)
    job = Job.of(to_dict(load_run(arguments.config, arguments.overrides).config), target.name)
    return launch(target, job, arguments.action, dry_run=arguments.dry_run)


def _run_training(arguments: Any, resolved: Resolved[RunConfig], must_exist: bool = False) -> int:
    from jaxlm.files import disk_errors
    from jaxlm.processes import init_processes, told_to_others
    from jaxlm.train.loop import train

    init_processes(arguments.coordinator, arguments.num_processes, arguments.process_id)
    with told_to_others(), disk_errors(resolved.config.run_dir or ""):
        outcome = train(resolved, must_exist=must_exist, accept_data=arguments.accept_changed_data)
    import jax

    if jax.process_index() == 0:
        print(outcome.message)
        _print_figures(outcome.result)
        if outcome.report:
            print(f"report: {resolved.config.run_dir}/report.html")
    return outcome.code


def _print_figures(result: dict[str, Any]) -> None:
    for name, value in result.get("final", {}).items():
        shown = f"{value:.4f}" if isinstance(value, float) else value
        print(f"  {name:24} {shown}")
    if "confusion" in result:
        classes, table = result["confusion"]["classes"], result["confusion"]["table"]
        if len(classes) > MAX_COLUMNS:
            _print_confusions(classes, table)
            return
        first, width = "true / predicted", max(8, *map(len, classes)) + 2
        column = max(map(len, [*classes, first]))
        print("  " + first.ljust(column) + "".join(name.rjust(width) for name in classes))
        for name, row in zip(classes, table, strict=True):
            print("  " + name.ljust(column) + "".join(str(n).rjust(width) for n in row))


MAX_COLUMNS = 8  # of a confusion table on a terminal
MAX_CONFUSIONS = 10


def _print_confusions(classes: list[str], table: list[list[int]]) -> None:
    """Precision, recall and F1 of each class, and what is taken for what most often."""
    column = min(40, max(map(len, [*classes, "class"])))
    print(f"  {'class':{column}} precision   recall       F1  examples")
    for i, name in enumerate(classes):
        hit, true, said = table[i][i], sum(table[i]), sum(row[i] for row in table)
        ratios = ((hit, said), (hit, true), (2 * hit, true + said))
        cells = [f"{a / b:.3f}" if b else "-" for a, b in ratios]
        shown = "".join(f"{cell:>9}" for cell in cells)
        print(f"  {name[:column]:{column}} {shown} {true:>9}")
    pairs = [(n, i, j) for i, row in enumerate(table) for j, n in enumerate(row) if n and i != j]
    for n, i, j in sorted(pairs, reverse=True)[:MAX_CONFUSIONS]:
        print(f"  {classes[i][:column]} taken for {classes[j][:column]}: {n}")


# ------------------------------------------------------------------------------------ using a run


def _generate(arguments: Any) -> int:
    from jaxlm.config import UserError, type_name
    from jaxlm.files import read_json
    from jaxlm.generate import Generator, Writer, ends_of, ids_of
    from jaxlm.generate.speculative import SpeculativeGenerator
    from jaxlm.run import load_saved, objective_of
    from jaxlm.train.run_dir import RunDir
    from jaxlm.train.session import load_trained, saved_tokenizer

    sampling = _sampling(arguments)
    config = load_saved(arguments.run_dir, arguments.overrides).config
    objective = objective_of(config)
    if why := objective.why_silent(config.model):
        raise UserError(
            f"{arguments.run_dir}: its objective is {type_name(type(objective))}, which {why}; use "
            "`jaxlm eval`, or generate from a causal_lm run"
        )
    tokenizer = saved_tokenizer(RunDir(arguments.run_dir))
    _, program, params, step = load_trained(
        arguments.run_dir, overrides=tuple(arguments.overrides), step=arguments.step, report=_say
    )
    ids = ids_of(tokenizer, config.sample.eos_ids, trained=config.data is not None)
    if arguments.draft is None:
        generator = Generator(program, sampling, **ids)
    else:
        if (
            saved_tokenizer(RunDir(_existing_run(arguments.draft))).fingerprint()
            != tokenizer.fingerprint()
        ):
            raise UserError(
                f"--draft: {arguments.draft} has another tokenizer than {arguments.run_dir}; "
                "draft with a run of the same tokenizer"
            )
        _, draft, own, _ = load_trained(arguments.draft, mesh=program.mesh, report=_say)
        count = {} if arguments.num_drafts is None else {"num_drafts": arguments.num_drafts}
        generator = SpeculativeGenerator(program, draft, sampling, **count, **ids)
        params = (params, own)
    prompts = arguments.prompt or [""]
    manifest = RunDir(arguments.run_dir).data_manifest
    ends = ends_of(
        config.data, read_json(manifest, "restore it") if manifest.is_file() else {}, tokenizer
    )
    texts = Writer(tokenizer, generator, ends)(params, prompts, seed=arguments.seed)
    if arguments.json:
        for prompt, text in zip(prompts, texts, strict=True):
            print(json.dumps({"step": step, "prompt": prompt, "text": text}, ensure_ascii=False))
    else:
        from jaxlm.show import print_texts

        print_texts(prompts, texts)
    return 0


def _sampling(arguments: Any) -> Any:
    from jaxlm.config import UserError
    from jaxlm.generate import Sampling

    drawn = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p")}
    drawn = {name: value for name, value in drawn.items() if value is not None}
    searched = {"num_beams": arguments.beams}
    if arguments.length_penalty is not None:
        searched["length_penalty"] = arguments.length_penalty
    if arguments.beams > 1 and drawn:
        words = ", ".join("--" + name.replace("_", "-") for name in drawn)
        raise UserError(f"--beams: a search draws nothing; leave {words} out")
    if arguments.beams > 1 and arguments.draft is not None:
        raise UserError("--draft: is of drawn or greedy text, not of a search; leave --beams out")
    if arguments.num_drafts is not None and arguments.draft is None:
        raise UserError("--num-drafts: is of a draft alone; add --draft RUN_DIR")
    if arguments.beams == 1 and len(searched) > 1:
        raise UserError("--length-penalty: is of a search alone; add --beams 4")
    return Sampling(max_tokens=arguments.max_tokens, **drawn, **searched)


def _eval(arguments: Any) -> int:
    from jaxlm.evaluate import evaluate_run

    step, values, tables = evaluate_run(
        arguments.run_dir,
        overrides=tuple(arguments.overrides),
        step=arguments.step,
        accept_data=arguments.accept_changed_data,
        report=_say,
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


def _existing_run(name: str) -> Path:
    from jaxlm.run import saved_config

    return saved_config(name).parent


# ------------------------------------------------------------------------------------- interchange


def _import(arguments: Any) -> int:
    from pathlib import Path

    from jaxlm.hf import import_model
    from jaxlm.processes import init_processes, told_to_others

    init_processes(arguments.coordinator, arguments.num_processes, arguments.process_id)
    with told_to_others():
        line = import_model(
            Path(arguments.folder),
            Path(arguments.out),
            arguments.overrides,
            dtype=arguments.dtype,
            report=_say,
        )
    print(line)
    return 0


def _plan(arguments: Any) -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"  # a plan takes no accelerator
    from jaxlm.plan.verb import run

    return run(arguments, report=_say)


def _export(arguments: Any) -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"  # the host's work: no accelerator is taken from a trainer
    from pathlib import Path

    from jaxlm.hf import export_run

    line = export_run(
        _existing_run(arguments.run_dir),
        Path(arguments.out),
        step=arguments.step,
        dtype=arguments.dtype,
        family=arguments.family,
        max_bytes=arguments.max_shard_size,
        report=_say,
    )
    print(line)
    return 0


def _presets(arguments: Any) -> int:
    from jaxlm.models.presets import all_presets, render

    presets = list(all_presets())
    print(json.dumps([p._asdict() for p in presets]) if arguments.json else render(presets))
    return 0


# ---------------------------------------------------------------------------------- data, tokenizer


def _data(arguments: Any) -> int:
    from jaxlm.data.inspect import inspect
    from jaxlm.run import load_run
    from jaxlm.train.session import prepare_data

    config = load_run(arguments.config, arguments.overrides).config
    prepared = prepare_data(config.replace(run_dir=None), _say, workers=arguments.workers)
    if arguments.action == "prepare":
        print(json.dumps(prepared.manifest, indent=1, ensure_ascii=False))
        return 0
    size = config.train.batch_size
    splits = list(prepared.splits) if arguments.split is None else [arguments.split]
    for number, split in enumerate(splits):
        print("\n" * bool(number), end="")
        print(inspect(prepared, split, rows=arguments.rows, seed=config.seed, batch_size=size))
    return 0


def _tokenizer(arguments: Any) -> int:
    from pathlib import Path

    from jaxlm.config import UserError
    from jaxlm.run import load_run
    from jaxlm.train.session import prepare_data

    out = Path(arguments.out)
    if out.exists():
        raise UserError(f"--out: {out} exists already; name a new folder")
    config = load_run(arguments.config, arguments.overrides).config
    tokenizer = prepare_data(config.replace(run_dir=None), _say).tokenizer
    try:
        tokenizer.save(out)
    except OSError as error:
        raise UserError(f"--out: {out}: {error.strerror}; name a folder that can be made") from None
    print(f"{out}: {tokenizer.vocab_size} ids, sha256 {tokenizer.fingerprint()}")
    return 0


# ----------------------------------------------------------------------------------------- the rest


def _config(arguments: Any) -> int:
    from jaxlm.config import settings, to_yaml
    from jaxlm.run import load_run

    resolved = load_run(arguments.config, arguments.overrides)
    if arguments.yaml:
        print(to_yaml(resolved.config), end="")
    else:
        from jaxlm.show import print_settings

        print_settings(settings(resolved))
    return 0


def _doctor(arguments: Any) -> int:
    from jaxlm.doctor import examine, render

    found = examine()
    print(json.dumps(found, indent=1) if arguments.json else render(found))
    return 0 if found["ok"] else 1


def _say(line: str) -> None:
    """What is not the answer goes to stderr, so that the answer can be piped."""
    print(line, file=sys.stderr)


VERBS: dict[str, Callable[[Any], int]] = {
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


if __name__ == "__main__":
    sys.exit(main())
