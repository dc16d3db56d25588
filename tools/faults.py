"""Damages run folders at random, and checks that no verb is silently wrong or crashes.

    python tools/faults.py --faults 500 --jobs 2
    python tools/faults.py --only 17            # one fault again, with what the verbs said
    python tools/faults.py --faults 60 --subject records

A small run is stopped in the middle and a copy of it is finished; another run is the source of
foreign files. Each fault takes a copy of one of the two, with its prepared data, damages one random
file or folder (`tools/damage.py`), and runs the verbs from end to end: info, eval, generate,
export, report, resume, and info again. The verdict of a fault is that of its worst verb:

    named      one line of error and exit code 2, or the right result and a line that names the file
    harmless   all results are those of the undisturbed run
    other      silently another result
    traceback  an exception, a second line of error, or another exit code
    hang       no end in 300 seconds, or the process has died

`--subject records` damages the prepared data of a classifier alone: the records of a table, and the
numbers that its task made of them.

The results that are compared: SHA-256 of the parameters, figures of the evaluation, generated
texts, exported files, what the report shows, and every line of metrics, samples and ledger. Where a
checkpoint is damaged, the result must be that of the one before, and said to be so. The exit code
is 1 where a verdict is other, traceback or hang.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from damage import Fault, choose
from verbs import Answer, run_verb, warm_programs
from warm import ROOT
from watching import records

LIMIT_SECONDS = 300.0
START_SECONDS = 1800.0  # of a process, with all that it compiles
VERDICTS = ("named", "harmless", "other", "traceback", "hang")
STATES = ("stopped", "finished")
LAST, STOP = 12, 9  # the steps of a run, and where the other state of it ends
SETTINGS = (
    f"train.steps={LAST}",
    "train.ledger=true",
    "train.batch_size=8",
    "logging.every_steps=1",
    "checkpoint={every_steps: 4, keep_last: 3}",
    "eval={every_steps: 4, max_batches: 2}",
    "sample={prompts: [a], max_tokens: 8, every_steps: 4}",
    "model.num_layers=1",
    "model.family=llama",
    "tokenizer={type: sentencepiece, vocab_size: 300}",
)
READING = ("info", "eval", "generate", "export", "report")
ALL = (*READING, "resume", "info")
SIDE = "tensorboard|result|timing|environment|marks|records"
LOGS = rf"run/([^/]*\.(jsonl|txt|html|lock)|({SIDE}).*)"
DIFFERING = ("run_dir", "checkpoints", "problems", "evaluated")  # of info: not results
CLOCKED = r"<section><h2>(Checkpoints|Where the time went).*?</section>|<dt>wall time.*?</dd>"
CLASSIFIES = (
    *(s for s in SETTINGS if not s.startswith("sample")),
    "sample={prompts: []}",
    "data={type: records, source: {type: csv, files: TABLES/SEED-*.csv}, seq_len: 32}",
    "data.task={type: classification}",
    "objective={type: classification}",
)
RANKS = ("harmless", "named", "other", "traceback")


@dataclass(frozen=True)
class Finding:
    """The outcome of one fault."""

    number: int
    state: str
    kind: str
    name: str
    what: str
    verdict: str
    detail: str = ""


@dataclass(frozen=True)
class Subject:
    """The runs that are damaged: of these settings, in files whose names begin with `below`.

    reading: the verbs that such a run has, and that change nothing.
    """

    settings: tuple[str, ...] = SETTINGS
    reading: tuple[str, ...] = READING
    below: str = ""

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.reading, "resume", "info")


SUBJECTS = {
    "text": Subject(),
    "records": Subject(CLASSIFIES, ("info", "eval", "report"), "cache/stores/"),
}


# --------------------------------------------------------------------------------- the sound runs


def write_tables(folder: Path) -> None:
    """Tables of texts with labels, another for each seed."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ("sea", "names", "turns", "under", "low", "moon", "nobody", "sleeps")
    for seed in (1, 2):
        rng = random.Random(seed)
        for part in range(2):
            texts = [" ".join(rng.choices(words, k=9)) for _ in range(60)]
            rows = [f"{text} {n},{'ab'[text < 'o']}" for n, text in enumerate(texts)]
            (folder / f"{seed}-{part}.csv").write_text("\n".join(["text,label", *rows]) + "\n")


def make_runs(
    folder: Path, settings: tuple[str, ...] | None = None, subject: Subject = SUBJECTS["text"]
) -> None:
    """sound/stopped, sound/finished and sound/other: each with run/ and cache/, and what the verbs
    answer there.
    """
    write_tables(folder / "tables")
    for name, seed in (("stopped", 1), ("other", 2)):
        case = folder / "sound" / name
        config = str(ROOT / "configs/smoke/transformer.yaml")
        own = [s.replace("TABLES", str(folder / "tables")) for s in settings or subject.settings]
        own = [s.replace("SEED", str(seed)) for s in own]
        words = ["train", config, *own, f"seed={seed}"]
        words += [f"data.source.seed={seed}"] if subject is SUBJECTS["text"] else []
        with stopping_after(STOP if name == "stopped" else LAST):
            answer = run_verb([*words, f"run_dir={case / 'run'}", f"cache_dir={case / 'cache'}"])
        assert answer.code == (75 if name == "stopped" else 0), answer
    finished = folder / "sound" / "finished"
    shutil.copytree(folder / "sound" / "stopped", finished)
    assert run(finished, "resume").code == 0
    expected: dict[str, Any] = {"end": ended(finished)}
    for state in STATES:
        case = folder / "expected"
        shutil.copytree(folder / "sound" / state, case)
        found = []
        for checkpoint in sorted((case / "run/checkpoints").iterdir(), reverse=True):
            values, lines = {}, {}
            for verb in subject.reading:
                answer = run(case, verb)
                assert answer.code == 0 and not answer.crash, answer
                values[verb], lines[verb] = value(case, verb, answer), answer.lines
            found.append(json.loads(json.dumps(values)))
            expected.setdefault(f"{state} lines", lines)
            shutil.rmtree(checkpoint)
        expected[state] = found
        shutil.rmtree(case)
    (folder / "expected.json").write_text(json.dumps(expected))


@contextlib.contextmanager
def stopping_after(step: int) -> Iterator[None]:
    """A block in which a run gets SIGTERM after a step, unless it is the last."""
    from jaxlm.runs.records import Records

    before = Records.write_ids

    def write_ids(self: Any, now: int, ids: Any) -> None:
        before(self, now, ids)
        if now == step < LAST:
            os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(Records, "write_ids", write_ids):
        yield


# -------------------------------------------------------------------------------------- the verbs


def run(case: Path, verb: str) -> Answer:
    """A verb on a case's run."""
    path, cache = str(case / "run"), f"cache_dir={case / 'cache'}"
    shutil.rmtree(case / "export", ignore_errors=True)
    words = {
        "info": ["info", path, "--json"],
        "eval": ["eval", path, "--json", cache],
        "generate": ["generate", path, "--json", "--max-tokens", "8", "--prompt", "a"],
        "export": ["export", "hf", path, "--out", str(case / "export")],
        "report": ["report", path],
        "resume": ["resume", path, cache],
    }
    answer = run_verb(words[verb])
    return replace(
        answer,
        out=answer.out.replace(str(case), "CASE"),
        err=answer.err.replace(str(case), "CASE"),
    )


def verbs_for(kind: str) -> tuple[str, ...]:
    """The verbs that read a kind of file."""
    if kind.startswith("cache/"):
        return ("eval", "resume", "info")
    if re.fullmatch(LOGS, kind):
        return ("info", "report", "resume", "info")
    return ALL


def value(case: Path, verb: str, answer: Answer) -> Any:
    """The result of a verb that has succeeded, as plain values that two runs of it agree in."""
    if verb == "info":
        found = json.loads(answer.out)
        return {k: v for k, v in found.items() if k not in DIFFERING}
    if verb == "export":
        files = sorted(p for p in (case / "export").rglob("*") if p.is_file())
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    if verb == "report":
        page = (case / "run/report.html").read_text(encoding="utf-8")
        page = re.sub(CLOCKED, "", page, flags=re.DOTALL)
        return re.sub(r'<p class="note">.*?</p>', "", page).split()
    return json.loads(answer.out)


def ended(case: Path) -> Any:
    """The content of the files of a run that has come to its end."""
    result = json.loads((case / "run/result.json").read_text())
    lines: dict[str, Any] = {}
    for path in sorted((case / "run").glob("*.jsonl")):
        try:
            lines[path.name] = records(path)
        except (OSError, ValueError):
            lines[path.name] = "cannot be read"
    return json.loads(json.dumps({"final": result["final"], **lines}))


def judge(case: Path, verb: str, fault: Fault, answer: Answer, expected: Any, usual: Any) -> str:
    """The verdict on a verb's answer; with a colon and the reason where it is bad."""
    if answer.crash:
        return f"traceback: {answer.crash}"
    said = [line for line in answer.lines if line not in usual]
    if verb == "info" and answer.code == 0:
        said = [*json.loads(answer.out)["problems"], *answer.err.splitlines()]
    if verb == "report" and answer.code == 0:
        page = (case / "run/report.html").read_text(encoding="utf-8")
        said += re.findall(r'<p class="note">(.*?)</p>', page)
    named = any(name in line for line in said for name in fault.names)
    if answer.code:
        errors = [line for line in answer.lines if line.startswith("error: ")]
        if answer.code != 2 or len(errors) != 1:
            return f"traceback: exit code {answer.code}, {errors or answer.lines[-3:]}"
        return "named" if named else f"other: the error does not name the file: {errors[0]}"
    if verb == "resume":
        found, wanted = ended(case), expected["end"]
        different = [name for name in wanted if found.get(name) != wanted[name]]
        if "final" in different:
            return f"other: {found['final']} where {wanted['final']} was undisturbed"
        equal, known = not different, True
    else:
        different, found = [], value(case, verb, answer)
        equal = found == expected[0][verb]
        if verb == "info" and found["final"] is None:  # a result that is not believed
            expected = [e | {"info": {**e["info"], "final": None}} for e in expected]
        elif verb == "info":  # that of the last step, whose checkpoint is damaged
            final = expected[0]["info"]["final"]
            expected = [e | {"info": {**e["info"], "final": final}} for e in expected]
        known = any(found == e[verb] for e in expected)
        known |= verb == "info" and found["param_sha256"] is None  # it names what is wrong
    if equal:
        return "named" if named else "harmless"
    if verb != "report" and not known:
        return f"other: {found}"[:600]
    return "named" if named else f"other: another result, nothing said {different} {said[:3]}"


def fault_of(folder: Path, seed: int, number: int, below: str = "") -> tuple[str, Fault]:
    """(the state of the run, its fault) of a number."""
    states = {path.name: path for path in (folder / "sound").iterdir()}
    rng = random.Random(f"{seed} {number}")
    state = STATES[number % len(STATES)]
    return state, choose(states, state, number // len(STATES), rng, below)


def trial(
    folder: Path, seed: int, number: int, work: Path, verbose: bool = False, below: str = ""
) -> Finding:
    """The fault of a number: damaged, and put before every verb."""
    state, fault = fault_of(folder, seed, number, below)
    known = json.loads((folder / "expected.json").read_text())
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder / "sound" / state, work)
    fault.apply(work)
    worst, detail = "harmless", ""
    for verb in verbs_for(fault.kind):
        answer = run(work, verb)
        expected = known if verb == "resume" else known[state]
        usual = known[f"{state} lines"].get(verb, ())
        found, _, reason = judge(work, verb, fault, answer, expected, usual).partition(": ")
        if verbose:
            print(f"--- {verb}: {found} {reason}\n{answer.out[-3000:]}{answer.err[-3000:]}")
        if RANKS.index(found) > RANKS.index(worst):
            worst, detail = found, f"{verb}: {reason}" if reason else ""
        if verb == "resume":
            if answer.code:  # a resume that was refused leaves nothing to look at
                break
            state = "finished"
    return Finding(number, STATES[number % 2], fault.kind, fault.name, fault.what, worst, detail)


# ------------------------------------------------------------------------------------ the processes


def work_on(folder: Path, seed: int, subject: Subject, numbers: Any, findings: Any) -> None:
    """A worker process: a number in, a finding out; first it warms up, and says so.

    The first process makes the sound runs.
    """
    with open(folder / f"worker-{os.getpid()}.log", "w") as log:
        os.dup2(log.fileno(), 1)  # what native code prints
        os.dup2(log.fileno(), 2)
    work = folder / f"work-{os.getpid()}"
    with warm_programs():
        if not (folder / "expected.json").exists():
            make_runs(folder, subject=subject)
        else:
            shutil.copytree(folder / "sound" / STATES[0], work)
            for verb in subject.all:
                run(work, verb)
        findings.send(None)
        while (number := numbers.recv()) != "end":
            findings.send(trial(folder, seed, number, work, below=subject.below))


class Worker:
    """A process that works on faults; one that dies or hangs is a finding, and is started again."""

    def __init__(self, folder: Path, seed: int, subject: Subject) -> None:
        self.folder, self.seed, self.subject = folder, seed, subject
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        numbers, self._numbers = context.Pipe(duplex=False)
        self._findings, findings = context.Pipe(duplex=False)
        arguments = (self.folder, self.seed, self.subject, numbers, findings)
        self._process = context.Process(target=work_on, args=arguments, daemon=True)
        self._process.start()
        findings.close()
        if not self._findings.poll(START_SECONDS):
            raise TimeoutError(f"a process has not started in {START_SECONDS:.0f} s")
        self._findings.recv()

    def ask(self, number: int, seconds: float = LIMIT_SECONDS) -> Finding:
        self._numbers.send(number)
        try:
            if self._findings.poll(seconds):
                return self._findings.recv()
            reason = f"no end in {seconds:.0f} s"
        except EOFError:
            self._process.join(5)
            reason = f"the process has died ({self._process.exitcode})"
        self._process.kill()
        self._start()
        return Finding(number, STATES[number % 2], "?", "?", "?", "hang", reason)

    def close(self) -> None:
        self._numbers.send("end")
        self._process.join(5)


def run_all(
    folder: Path, seed: int, subject: Subject, numbers: list[int], jobs: int
) -> list[Finding]:
    """All findings; each is printed where it is bad."""
    os.environ.update(
        JAX_PLATFORMS="cpu",
        JAXLM_CACHE=str(folder / "cache"),
        JAX_COMPILATION_CACHE_DIR=str(folder / "xla"),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )
    if not (folder / "expected.json").exists():
        shutil.rmtree(folder / "sound", ignore_errors=True)
    first = Worker(folder, seed, subject)
    workers = [first, *(Worker(folder, seed, subject) for _ in range(jobs - 1))]

    def share(index: int) -> list[Finding]:
        found = []
        for number in numbers[index::jobs]:
            finding = workers[index].ask(number)
            found.append(finding)
            with open(folder / "findings.jsonl", "a") as file:
                file.write(json.dumps(asdict(finding)) + "\n")
            if finding.verdict not in ("named", "harmless"):
                print(json.dumps(asdict(finding)), flush=True)
        workers[index].close()
        return found

    with ThreadPoolExecutor(jobs) as pool:
        return [finding for part in pool.map(share, range(jobs)) for finding in part]


def table(findings: list[Finding]) -> str:
    """A row for each kind of file: how many faults came to which verdict."""
    counts = Counter((f.kind, f.verdict) for f in findings)
    kinds = sorted({f.kind for f in findings})
    width = max(map(len, kinds), default=4)
    rows = [(k, *(counts[k, v] for v in VERDICTS)) for k in kinds]
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, len(VERDICTS) + 1))))
    head = f"{'file':{width}}" + "".join(f"{v:>11}" for v in VERDICTS)
    return "\n".join([head, *(f"{k:{width}}" + "".join(f"{n:>11}" for n in ns) for k, *ns in rows)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep everything here; default: nowhere")
    parser.add_argument("--only", type=int, help="the number of one fault, reported in detail")
    parser.add_argument("--subject", choices=SUBJECTS, default="text", help="what is damaged")
    options = parser.parse_args()
    subject = SUBJECTS[options.subject]
    began = time.time()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        numbers = list(range(options.faults)) if options.only is None else []
        findings = run_all(folder.resolve(), options.seed, subject, numbers, options.jobs)
        if options.only is not None:
            with warm_programs():
                work, one = folder / "work", options.only
                findings = [trial(folder, options.seed, one, work, True, subject.below)]
            print(json.dumps(asdict(findings[0]), indent=1))
    print(table(findings))
    print(f"{len(findings)} faults, seed {options.seed}, {time.time() - began:.0f} s")
    return int(any(f.verdict not in ("named", "harmless") for f in findings))


if __name__ == "__main__":
    sys.exit(main())
