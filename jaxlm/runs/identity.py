"""The run that a checkpoint belongs to and the data that it was trained on: written at each save,
compared at each restore.

    identity = Identity.new(tokenizer="ab12...", data={"train": {"sha256": ...}})
    files = {"identity.json": identity.text(step=24, config_sha256="cd34...")}   # of a checkpoint
    mismatch(folder, 24, record)             # None, or "it is step 28 of this run"

A run folder has an identity.json of its own, the `Record`: the identity, the text of config.yaml
and the checksums of other files that its results depend on. It is written before config.yaml, so
that a run which is killed between the two continues with the config of the record.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from jaxlm import __version__
from jaxlm.core.checksums import read_checksums
from jaxlm.core.config import UserError
from jaxlm.core.config_yaml import read_yaml_text
from jaxlm.core.errors import few
from jaxlm.core.files import read_sealed, sealed_text, write_sealed
from jaxlm.runs.checkpoints import committed_steps, step_folder
from jaxlm.runs.folder import RunDir

IDENTITY = "identity.json"
ACCEPT_DATA = "--accept-changed-data"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The facts that hold for the whole life of a run, and the changes that the user accepted.

    data: {split: {"sha256": of its documents, "rows": ..., ...}}; null where the run has no data.
    frozen: {name: {"run": folder, "step": ..., "sha256": ...}} of the trees that the run reads and
    does not save, such as the base of an adapter.
    start: `import_sha256` of the run that it began with, where that was imported.
    accepted: {"flag": ..., "step": ..., "time": ..., "change": ...} for each change.
    """

    run_id: str
    tokenizer: str | None = None
    data: Mapping[str, Mapping[str, Any]] | None = None
    version: str = __version__
    code: str = ""
    frozen: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    start: str | None = None
    accepted: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def new(
        cls,
        *,
        tokenizer: str | None,
        data: Mapping[str, Mapping[str, Any]] | None,
        start: str | None = None,
    ) -> Identity:
        """The identity of a run that starts now."""
        run_id, code = uuid.uuid4().hex, code_sha256()
        return cls(run_id=run_id, tokenizer=tokenizer, data=data, start=start, code=code)

    def text(self, step: int, config_sha256: str) -> bytes:
        """The identity.json of a checkpoint."""
        return sealed_text({**asdict(self), "step": step, "config_sha256": config_sha256}).encode()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Identity:
        """From plain values; keys that a newer version wrote are left out."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        return cls(**known | {"accepted": tuple(values.get("accepted", ()))})


@dataclass(frozen=True, kw_only=True)
class Record:
    """The identity.json of a run folder.

    config: the text of config.yaml; replaced: SHA-256 of the text before it, which a kill between
    the two writes leaves. marks: `digest_of` marks.json. saved: whether a checkpoint was ever
    committed. newest: the step of the last that was, unless it was abandoned. before: checkpoints
    up to this step may have no identity, because an older version saved them. files: {name:
    SHA-256}.
    recovered: it is made of a checkpoint, because the file was missing or damaged.
    """

    identity: Identity
    config: str
    replaced: str | None = None
    marks: str | None = None
    saved: bool = False
    newest: int | None = None
    before: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    recovered: bool = False

    def with_frozen(self, frozen: Mapping[str, Mapping[str, Any]]) -> Record:
        """The record of a run that reads these frozen trees."""
        return replace(self, identity=replace(self.identity, frozen=frozen))

    def write(self, run: RunDir) -> None:
        write_sealed(run.path / IDENTITY, {**asdict(self), "recovered": False})


def read_record(run: RunDir) -> tuple[Record | None, list[str]]:
    """The record of a run, and what is wrong with it in lines.

    A record that is missing or damaged is made again from the newest checkpoint that has an
    identity. None where the run has neither.
    """
    path = run.path / IDENTITY
    problems = []
    if path.exists():
        try:
            values = read_sealed(path)
            identity = Identity.of(values["identity"])
            rest = {f.name: values[f.name] for f in fields(Record) if f.name in values}
            rest["identity"] = identity
            return Record(**rest | {"config": values["config"]}), []
        except (UserError, KeyError, TypeError) as error:
            what = str(error) if isinstance(error, UserError) else f"{path}: cannot be read"
            problems.append(what.partition(";")[0])
    for step in reversed(committed_steps(run.checkpoints)):
        folder = step_folder(run.checkpoints, step)
        found = read_identity(folder)
        if found is not None and found["step"] == step:
            config = (folder / "config.yaml").read_text(encoding="utf-8")
            what = problems.pop() if problems else f"{path}: missing"
            problems.append(f"{what}; the identity in checkpoint {step} is used")
            identity = Identity.of(found)
            return Record(identity=identity, config=config, saved=True, recovered=True), problems
    return None, problems


def read_identity(folder: Path) -> dict[str, Any] | None:
    """The identity of a checkpoint as plain values; None where it has none that is as written."""
    try:
        sums = read_checksums(folder)
        for name in (IDENTITY, "config.yaml"):
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != sums[name][1]:
                return None
        return read_sealed(folder / IDENTITY)
    except (OSError, ValueError, KeyError):
        return None


def mismatch(folder: Path, step: int, record: Record | None) -> str | None:
    """The reason why a checkpoint is not step `step` of this run; None where it is. Its bytes are
    as written.

    Where the run has a record, a checkpoint without an identity must be one that an older version
    saved before the record was made.
    """
    try:
        written = json.loads((folder / "state.json").read_bytes())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return "state.json: cannot be read"
    if written != step:
        return f"it is step {written}, so its folder must be {written:08d}"
    if not (folder / IDENTITY).exists():
        old = record is None or (record.before is not None and step <= record.before)
        return None if old else "it has no identity.json, so it is not known to be of this run"
    found = read_identity(folder)
    if found is None:
        return f"{IDENTITY}: is not covered by checksums.json"
    if found.get("step") != step:
        return f"its identity is that of step {found.get('step')}"
    if record is None:
        return None
    if found["run_id"] != record.identity.run_id:
        return f"it is of another run ({found['run_id'][:8]}, this is {record.identity.run_id[:8]})"
    if found["tokenizer"] != record.identity.tokenizer:
        return "it was trained with another tokenizer"
    return None


# ------------------------------------------------------------------------------------- config.yaml


def check_config(run: RunDir, record: Record, may_differ: tuple[str, ...]) -> None:
    """Raises `UserError` that names the difference where config.yaml is not as the run wrote it.

    `may_differ`: keys that do not change a run's weights. They are compared too where the record
    is the run's own, not one of a checkpoint.
    """
    if not run.config.exists():
        return
    data = run.config.read_bytes()
    if data == record.config.encode() or hashlib.sha256(data).hexdigest() == record.replaced:
        return
    fix = (
        f"put it back (remove the file, and the run's own copy is used), and give what is to "
        f"change to `jaxlm resume {run} key=value`"
    )
    if foreign := _foreign_record(run, record, data):
        raise UserError(foreign)
    try:
        now = dict(_leaves(read_yaml_text(data.decode(), run.config).values))
    except UserError as error:
        raise UserError(f"{str(error).partition(';')[0]}; {fix}") from None
    except UnicodeDecodeError:
        raise UserError(f"{run.config}: damaged, it is not UTF-8 text; {fix}") from None
    saved = dict(_leaves(read_yaml_text(record.config, run.config).values))
    for key in [*saved, *(key for key in now if key not in saved)]:
        skip = record.recovered and key.startswith(may_differ)
        if not skip and saved.get(key, "absent") != now.get(key, "absent"):
            change = f"{saved.get(key, 'absent')!r:.60} -> {now.get(key, 'absent')!r:.60}"
            raise UserError(
                f"{run.config}: {key} was changed since the run wrote it ({change}); {fix}"
            )


def _foreign_record(run: RunDir, record: Record, config: bytes) -> str | None:
    """The error where config.yaml is that of the checkpoints, and the record another run's."""
    for step in reversed(committed_steps(run.checkpoints)):
        folder = step_folder(run.checkpoints, step)
        found = read_identity(folder)
        foreign = found is not None and found["run_id"] != record.identity.run_id
        if foreign and (folder / "config.yaml").read_bytes() == config:
            return (
                f"{run.path / IDENTITY}: is of another run than config.yaml and the checkpoints; "
                "put back a copy, or remove it: then the newest checkpoint's is used"
            )
    return None


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list)) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


# ------------------------------------------------------------------------------- data, files, code


def data_change(record: Record, now: Mapping[str, Mapping[str, Any]] | None) -> str | None:
    """The data's differences from what the run was trained on, in words; None if it is equal."""
    saved, now = record.identity.data or {}, now or {}
    if not saved:
        return None
    changes = []
    for split in dict.fromkeys([*saved, *now]):
        old, new = saved.get(split), now.get(split)
        if old is None or new is None:
            changes.append(f"the split {split} was {'added' if old is None else 'removed'}")
        elif old["sha256"] != new["sha256"] and not _stored_otherwise(old, new):
            names = [
                n for n in old if n not in ("sha256", "files", "format") and old[n] != new.get(n)
            ]
            counts = ", ".join(f"{n} {old[n]} -> {new.get(n)}" for n in names)
            files = _changed_files(old.get("files"), new.get("files"))
            what = counts or "as many documents and tokens, but others"
            changes.append(f"{split}: {what}{files}")
    return "; ".join(changes) or None


def _stored_otherwise(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether an earlier version stored the same sources in another format, whose hash is another:
    the files and all counts are equal.
    """
    if old.get("format") == new.get("format") or not old.get("files"):
        return False
    names = [name for name in old if name not in ("sha256", "format")]
    return all(old[name] == new.get(name) for name in names)


def _changed_files(old: Any, new: Any) -> str:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return ""
    names = sorted(n for n in {*old, *new} if old.get(n) != new.get(n))
    return f" (files: {few(names, 3)})" if names else ""


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, whatever its layout."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def kept_files(run: RunDir) -> dict[str, str]:
    """SHA-256 of the files that came with imported weights and that an export gives back."""
    folder = run.originals
    paths = [p for p in folder.rglob("*") if p.is_file()] if folder.is_dir() else []
    paths += [run.imported] if run.imported.is_file() else []
    return {
        path.relative_to(run.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
    }


def import_sha256(run: RunDir) -> str | None:
    """SHA-256 of the files that a run was imported from, whatever made it of them and wherever it
    is; None: it was trained.
    """
    if not run.imported.is_file():
        return None
    files = read_sealed(run.imported, "import the model again").get("files")
    return digest_of(files) if files else None


def check_files(run: RunDir, record: Record) -> None:
    """Raises `UserError` where a file that came with imported weights is not as it was written.

    Without a file of hf/ an export writes what the config says: `missing_files` reports it.
    """
    found = kept_files(run) if record.files else {}
    for name, digest in record.files.items():
        if name not in found and name.startswith("hf/"):
            continue
        if found.get(name) != digest:
            what = "was changed since the run was made" if name in found else "is missing"
            raise UserError(f"{run.path / name}: {what}; put it back, or import the model again")


def missing_files(run: RunDir, record: Record) -> list[str]:
    """A line for each file of hf/ that is not there any more."""
    return [
        f"{run.path / name}: is missing, so an export writes its own"
        for name in record.files
        if name.startswith("hf/") and not (run.path / name).is_file()
    ]


def check_tokenizer(run: RunDir, tokenizer: Any) -> None:
    """Raises `UserError` where a sound tokenizer is not the one that the run was trained with."""
    record, _ = read_record(run)
    wanted = record.identity.tokenizer if record else None
    if wanted is not None and tokenizer.fingerprint() != wanted:
        raise UserError(
            f"{run.tokenizer}: is another tokenizer than the run was trained with (SHA-256 "
            f"{tokenizer.fingerprint()[:12]}, the run's is {wanted[:12]}); put it back, every "
            f"checkpoint in {run.checkpoints} has a copy"
        )


def missing_checkpoint(run: RunDir, record: Record | None) -> str | None:
    """The error where checkpoints that were saved are not there; None where all is well."""
    if record is None or not record.saved:
        return None
    folder, newest = run.checkpoints, record.newest
    if not folder.is_dir() or not any(folder.iterdir()):
        return all_missing(run)
    later = [step for step in committed_steps(folder) if newest is None or step > newest]
    aside = newest is not None and any(folder.glob(f"{newest:08d}*"))  # set aside, and told so
    if newest is None or later or aside:
        return None
    return f"checkpoint {newest}: is missing, though it was saved; put it back"


def all_missing(run: RunDir) -> str:
    return (
        f"{run.checkpoints}: the checkpoints of this run are missing; put them back, or start "
        "again in another run folder"
    )


def mark_saved(run: RunDir, newest: int | None) -> None:
    """Writes into the record that the run has had a checkpoint: none may be missing from now on.

    newest: the step of the last one; None: those that there were are abandoned.
    """
    record, problems = read_record(run)
    if record is not None and not problems and (not record.saved or record.newest != newest):
        replace(record, saved=True, newest=newest).write(run)


@cache
def code_sha256() -> str:
    """SHA-256 over this package's own files."""
    found = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root).as_posix()}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()
