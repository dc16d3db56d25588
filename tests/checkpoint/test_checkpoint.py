"""Checkpoints: bit-exact on any mesh, and no fault that is not found, named and survived."""

from __future__ import annotations

import json
import logging
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlm.checkpoint import state_io
from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.checkpoint.writer import CheckpointConfig, Checkpointer
from jaxlm.core.config import UserError
from jaxlm.mesh import MeshConfig
from tests.programs import run_programs

SPECS = {3: PartitionSpec(None, "fsdp", "tensor"), 2: PartitionSpec("tensor", "fsdp")}


def build_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Any:
    return MeshConfig(data=data, fsdp=fsdp, tensor=tensor, num_devices=data * fsdp * tensor).build()


def place(tree: Any, mesh: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.device_put(x, NamedSharding(mesh, SPECS.get(x.ndim, PartitionSpec()))), tree
    )


def make_state(mesh: Any, seed: int = 0, size: int = 32) -> dict[str, Any]:
    """A state as training has it: nested dicts, optax's tuples, a scalar, a bfloat16."""
    draw = np.random.default_rng(seed).normal
    params = {
        "layers": {"kernel": draw(size=(3, size, size)).astype(np.float32)},
        "embed": {"table": draw(size=(size, size)).astype(np.float32)},
    }
    state = {
        "step": np.int32(seed),
        "params": params,
        "opt_state": jax.tree.map(np.asarray, optax.adamw(1e-3).init(params)),
        "carry": {"h": jnp.asarray(draw(size=(8, size)), jnp.bfloat16)},
    }
    return place(state, mesh)


def abstract(state: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def host(state: Any) -> Any:
    return jax.tree.map(lambda x: np.array(x, copy=True), state)


def assert_equal(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


class Lines(list):
    """Collects what is reported."""

    def __call__(self, line: str) -> None:
        self.append(line)


def make_saver(folder: Path, **options: Any) -> tuple[Checkpointer, Lines]:
    lines = Lines()
    config = CheckpointConfig(**{"keep_last": 10, **options})
    return Checkpointer(folder / "checkpoints", config, report=lines), lines


# -------------------------------------------------------------------------------- save and restore


@pytest.mark.parametrize("source", [(8, 1, 1), (2, 2, 2)])
def test_restores_bit_exact_on_other_meshes(tmp_path: Path, source: tuple) -> None:
    state = make_state(build_mesh(*source))
    saver, _ = make_saver(tmp_path)
    assert saver.save(7, state, {}) and saver.wait()
    for sizes in [source, (1, 1, 1), (1, 8, 1), (1, 2, 4)]:
        target = abstract(place(host(state), build_mesh(*sizes)))
        restored = saver.restore(7, target)
        assert_equal(restored, host(state))
        for leaf, want in zip(jax.tree.leaves(restored), jax.tree.leaves(target), strict=True):
            assert leaf.sharding == want.sharding


def test_state_may_be_donated_as_soon_as_save_returns(tmp_path: Path) -> None:
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 7, s), donate_argnums=0)
    saver, _ = make_saver(tmp_path)
    for number, sizes in enumerate([(1, 1, 1), (2, 2, 2)]):
        state = make_state(build_mesh(*sizes), seed=number, size=512)
        want, target = host(state), abstract(state)
        saver.save(number, state, {})
        for _ in range(5):  # overwrites the buffers while they are being written to the disk
            state = step(state)
        jax.block_until_ready(state)
        assert saver.wait()
        assert_equal(saver.restore(number, target), want)


def test_moments_in_pinned_memory_are_saved(tmp_path: Path) -> None:
    """`optimizer.offload`: they are read back into that memory."""
    mesh = build_mesh(2, 2, 2)
    pinned = lambda x: jax.device_put(x, x.sharding.with_memory_kind("pinned_host"))  # noqa: E731
    state = make_state(mesh)
    state["opt_state"] = jax.tree.map(pinned, state["opt_state"])
    saver, lines = make_saver(tmp_path)
    assert saver.save(1, state, {}, force=True), lines
    restored = saver.restore(1, abstract(state))
    assert_equal(restored, host(state))
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(restored["opt_state"])}
    assert kinds == {"pinned_host"}


def test_files_lie_beside_the_arrays(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    (tokenizer / "sub").mkdir(parents=True)
    (tokenizer / "sub" / "vocab").write_bytes(b"\x00\xff")
    saver, _ = make_saver(tmp_path)
    files = {
        "data.json": b'{"row": 3}',
        "tokenizer": tokenizer,
        "a/c.yaml": tokenizer / "sub/vocab",
    }
    assert saver.save(1, make_state(build_mesh()), files, force=True)
    assert saver.read_file(1, "data.json") == b'{"row": 3}'
    assert (
        saver.read_file(1, "tokenizer/sub/vocab") == saver.read_file(1, "a/c.yaml") == b"\x00\xff"
    )
    with pytest.raises(UserError, match="nothing.json: not in the checkpoint"):
        saver.read_file(1, "nothing.json")


def test_a_part_is_read_without_the_rest(tmp_path: Path) -> None:
    state = make_state(build_mesh(2, 2, 2))
    saver, _ = make_saver(tmp_path)
    saver.save(5, state, {}, force=True)
    part = CheckpointReader(saver.folder).restore_partial(5, {"params": abstract(state["params"])})
    assert_equal(part, {"params": host(state["params"])})
    metadata = saver.read_metadata(5)
    assert metadata.step == 5 and metadata.count() == 4 * 32 * 32
    assert metadata.arrays["opt_state/0/mu/layers/kernel"] == ("float32", (3, 32, 32))


def test_another_tree_is_an_error_that_names_the_leaves(tmp_path: Path) -> None:
    state = make_state(build_mesh())
    saver, _ = make_saver(tmp_path)
    saver.save(5, state, {}, force=True)
    target = abstract(state)
    del target["carry"]
    target["ema"] = target["params"]
    target["params"] = {**target["params"], "embed": {"table": target["step"]}}
    with pytest.raises(UserError) as error:
        saver.restore(5, target)
    text = str(error.value)
    assert "missing: ema/embed/table, ema/layers/kernel" in text
    assert "not wanted: carry/h" in text
    assert "params/embed/table (stored float32[32, 32], wanted int32[])" in text
    with pytest.raises(UserError, match="missing: head"):
        saver.restore_partial(5, {"head": target["step"]})


def test_listing_needs_no_jax(tmp_path: Path) -> None:
    saver, _ = make_saver(tmp_path)
    saver.save(5, make_state(build_mesh()), {}, force=True)
    code = (
        "import sys; from jaxlm.checkpoint.reader import CheckpointReader as R;"
        f"r = R({str(saver.folder)!r}); print(r.latest(), r.list()[0].size_bytes > 1000,"
        "r.read_metadata(5).count(), 'jax' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["5", "True", str(4 * 32 * 32), "False"]


# -------------------------------------------------------------------------------------- when, what


def test_due_by_steps_and_by_minutes(tmp_path: Path) -> None:
    saver, _ = make_saver(tmp_path, every_steps=10, every_minutes=1.0)
    assert not saver.due(0, 100.0)
    times = [(1, 130.0), (2, 161.0), (3, 162.0), (10, 170.0), (11, 229.0), (12, 230.0)]
    assert [step for step, now in times if saver.due(step, now)] == [2, 10, 12]
    saver, _ = make_saver(tmp_path, every_steps=None)
    assert not any(saver.due(step, 1e9 * step) for step in range(5))


def test_retention_and_its_reasons(tmp_path: Path) -> None:
    saver, _ = make_saver(tmp_path, keep_last=2, keep_every=4)
    state = make_state(build_mesh())
    for step in range(1, 8):
        saver.save(step, state, {})
    saver.wait()
    kept = {info.step: info.kept_reason for info in saver.list()}
    assert kept == {4: "every 4", 6: "one of the last 2", 7: "newest"}
    assert sorted(p.name for p in saver.folder.iterdir()) == ["00000004", "00000006", "00000007"]


def test_a_due_save_waits_for_the_one_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    start = state_io.start_writing

    def slow(*arguments: Any) -> Any:
        metadata, finish = start(*arguments)
        return metadata, lambda: (gate.wait(20), finish())

    monkeypatch.setattr(state_io, "start_writing", slow)
    saver, lines = make_saver(tmp_path)
    state = make_state(build_mesh())
    saver.save(1, state, {})
    assert saver.status() == "saving 1" and saver.seconds_blocked < 10
    assert not (saver.folder / "00000001").exists()
    threading.Timer(1.2, gate.set).start()
    assert saver.save(2, state, {}) and saver.wait()
    assert saver.status() == "saved 2" and [i.step for i in saver.list()] == [1, 2]
    assert saver.seconds_blocked > 1.0
    assert len(lines) == 1 and "save of step 2 waited 1." in lines[0]


def test_a_step_that_is_on_disk_is_not_saved_again(tmp_path: Path) -> None:
    saver, _ = make_saver(tmp_path)
    state = make_state(build_mesh())
    saver.save(3, state, {})
    assert saver.save(3, state, {}, force=True)
    before = (saver.folder / "00000003" / "checksums.json").stat().st_mtime_ns
    again, _ = make_saver(tmp_path)
    again.restore(3, abstract(state))
    assert again.save(3, state, {}, force=True)
    assert (saver.folder / "00000003" / "checksums.json").stat().st_mtime_ns == before
    other, _ = make_saver(tmp_path)  # one that knows nothing of it replaces it
    state = make_state(build_mesh(), seed=9)
    assert other.save(3, state, {}, force=True)
    assert_equal(other.restore(3, abstract(state)), host(state))
    assert [p.name for p in saver.folder.iterdir()] == ["00000003"]


# ----------------------------------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good checkpoints 1 and 2; tests copy it."""
    folder = tmp_path_factory.mktemp("saved")
    saver, _ = make_saver(folder)
    for step in (1, 2):
        saver.save(step, make_state(build_mesh(1, 2, 2), seed=step), {"data.json": b"{}"})
    saver.close()
    return folder


def copy(saved: Path, tmp_path: Path) -> tuple[Checkpointer, Lines, Path]:
    shutil.copytree(saved / "checkpoints", tmp_path / "checkpoints")
    saver, lines = make_saver(tmp_path)
    return saver, lines, saver.folder / "00000002"


def files_of(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_one_flipped_bit_in_any_file_is_found(saved: Path, tmp_path: Path) -> None:
    saver, lines, newest = copy(saved, tmp_path)
    names = [name for name in files_of(newest) if (newest / name).stat().st_size]
    assert {"checksums.json", "state.json", "data.json"} < set(names) and len(names) >= 10
    draw = np.random.default_rng(0)
    for name in names:
        whole = (newest / name).read_bytes()
        for place_of_bit in {0, len(whole) * 8 - 1, int(draw.integers(len(whole) * 8))}:
            data = bytearray(whole)
            data[place_of_bit // 8] ^= 1 << place_of_bit % 8
            (newest / name).write_bytes(data)
            lines.clear()
            assert saver.latest() == 1, f"bit {place_of_bit} of {name}"
            assert len(lines) == 1 and f"damaged, {name}: " in lines[0]
            (saver.folder / "00000002.corrupt").rename(newest)
            (newest / name).write_bytes(whole)
    assert saver.latest() == 2
    state = make_state(build_mesh(1, 2, 2), seed=2)
    assert_equal(saver.restore(2, abstract(state)), host(state))


def test_truncated_and_missing_files_are_found(saved: Path, tmp_path: Path) -> None:
    saver, lines, newest = copy(saved, tmp_path)
    for name in files_of(newest):
        whole = (newest / name).read_bytes()
        for cut in (None, 0, len(whole) // 2, len(whole) - 1):
            if cut is not None and (cut < 0 or cut >= len(whole)):
                continue
            if cut is None:
                (newest / name).unlink()
            else:
                (newest / name).write_bytes(whole[:cut])
            lines.clear()
            assert saver.latest() == 1, f"{name} cut at {cut}"
            assert f"damaged, {name}: " in lines[0] and "00000002.corrupt" in lines[0]
            (saver.folder / "00000002.corrupt").rename(newest)
            (newest / name).write_bytes(whole)


def test_no_good_checkpoint_is_an_error_however_often_one_asks(saved: Path, tmp_path: Path) -> None:
    saver, _, newest = copy(saved, tmp_path)
    (newest / "state.json").write_bytes(b"{}")
    (saver.folder / "00000001" / "checksums.json").unlink()
    with pytest.raises(UserError, match=r"2 \(state.json: 2 bytes .*, 1 \(checksums.json: missing"):
        saver.latest()
    for _ in range(2):
        with pytest.raises(UserError, match="00000001.corrupt, 00000002.corrupt.*another run"):
            make_saver(tmp_path)[0].latest()
    assert len(files_of(saver.folder / "00000002.corrupt")) >= 10  # nothing was deleted


def test_a_second_damaged_one_of_a_step_finds_a_free_name(saved: Path, tmp_path: Path) -> None:
    saver, _, newest = copy(saved, tmp_path)
    shutil.copytree(newest, saver.folder / "00000002.corrupt")
    (newest / "data.json").unlink()
    assert saver.latest() == 1
    assert (saver.folder / "00000002.corrupt2").is_dir()


def test_a_reader_changes_nothing(saved: Path, tmp_path: Path) -> None:
    saver, _, newest = copy(saved, tmp_path)
    (newest / "data.json").write_bytes(b"[]")
    (saver.folder / "00000003.saving").mkdir()
    before, lines = files_of(tmp_path), Lines()
    reader = CheckpointReader(saver.folder, report=lines)
    assert reader.latest() == 1 and reader.latest(verify=False) == 2
    assert "checkpoint 2: damaged, data.json" in lines[0]
    assert files_of(tmp_path) == before and newest.exists()
    assert [(i.step, i.committed) for i in reader.list()] == [(1, True), (2, True), (3, False)]


def test_an_empty_folder_has_no_checkpoint_and_leftovers_are_removed(
    saved: Path, tmp_path: Path
) -> None:
    saver, lines = make_saver(tmp_path)
    assert saver.latest() is None and saver.clean() == []
    (saver.folder / "00000005.saving" / "orbax").mkdir(parents=True)
    (saver.folder / "00000001.removing").mkdir()
    whole = saver.folder / "00000002.saving4"  # killed between its checksums and its name
    shutil.copytree(saved / "checkpoints" / "00000002", whole)
    assert saver.latest() is None
    saver.clean()
    assert [p.name for p in saver.folder.iterdir()] == ["00000002"]
    assert [line.split(":")[0] for line in lines] == [
        "checkpoints/00000001.removing",
        "checkpoints/00000005.saving",
    ]
    assert saver.latest() == 2


# -------------------------------------------------------------------------------------- no space


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB; skipped where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def check_failure_and_recovery(saver: Checkpointer, lines: Lines, reason: str, fix: Any) -> None:
    """Step 1 is there; saves fail until `fix` is called, and step 1 stays the good one."""
    state = make_state(build_mesh(2, 2, 2), seed=2, size=512)
    saver.save(2, state, {"data.json": b"{}"})
    assert not saver.wait()
    assert saver.status() == f"failed 2: {reason}"
    assert len(lines) == 1 and f"checkpoint 2: not saved, {reason}" in lines[0]
    assert saver.save(2, state, {}, force=True) is False
    assert [info.step for info in saver.list() if info.committed] == [1] == [saver.latest()]
    fix()
    assert saver.save(2, state, {}, force=True) is True
    assert saver.status() == "saved 2" and saver.latest() == 2
    assert all(info.committed for info in saver.list())  # no litter of the failed ones
    assert_equal(saver.restore(2, abstract(state)), host(state))


def test_a_full_disk_does_not_end_the_run(small_disk: Path) -> None:
    saver, lines = make_saver(small_disk, keep_last=1)
    assert saver.save(1, make_state(build_mesh(2, 2, 2), size=16), {}, force=True)
    state_bytes = 3 * 4 * 512 * 512 * 4
    assert state_bytes > 8 << 20
    check_failure_and_recovery(
        saver,
        lines,
        "no space left on device",
        lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True),
    )


def test_a_failing_write_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saver, lines = make_saver(tmp_path)
    assert saver.save(1, make_state(build_mesh(2, 2, 2), size=16), {}, force=True)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, old[1]))
    try:
        check_failure_and_recovery(
            saver,
            lines,
            "file too large",
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, old),
        )
        # the line that was reported is all: orbax logs nothing of its own
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_without_space_for_the_checksums_nothing_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxlm.checkpoint import writer as checkpoint

    saver, lines = make_saver(tmp_path)
    assert saver.save(1, make_state(build_mesh(), size=16), {}, force=True)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    check_failure_and_recovery(saver, lines, "no space left on device", monkeypatch.undo)


def test_a_folder_that_cannot_be_made_is_a_failed_save(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    saver, lines = make_saver(tmp_path)
    assert saver.save(1, make_state(build_mesh()), {}) is False
    assert saver.status().startswith("failed 1: ") and len(lines) == 1


# ----------------------------------------------------------------------------- kills and processes

KILLED = """
import os, random, signal, sys, time
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import warnings; warnings.simplefilter("ignore")
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1
from jaxlm.mesh import MeshConfig
from jaxlm.checkpoint.writer import CheckpointConfig, Checkpointer

def train(folder, out):
    mesh = MeshConfig(fsdp=2, tensor=2, data=1).build()
    sharding = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    base = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
    abstract = {k: jax.ShapeDtypeStruct(base.shape, base.dtype, sharding=sharding) for k in "abcd"}
    saver = Checkpointer(folder, CheckpointConfig(keep_last=2))
    saver.clean()
    step = saver.latest() or 0
    if step:
        state = saver.restore(step, abstract)
        want = base + np.float32(step)
        assert all((np.asarray(x) == want).all() for x in state.values()), f"step {step} differs"
    os.write(out, f"{step}\\n".encode())
    while True:
        step += 1
        state = {k: jax.device_put(base + np.float32(step), sharding) for k in "abcd"}
        saver.save(step, state, {"data.json": b"{}"})

def names():
    return sorted(os.listdir(sys.argv[1])) if os.path.isdir(sys.argv[1]) else []

random.seed(1)
for kill in range(int(sys.argv[2])):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            train(sys.argv[1], write)
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}\\n".encode())
        finally:
            os._exit(1)
    os.close(write)
    print(os.read(read, 10000).decode().strip(), flush=True)
    # by turns soon after a save has begun, and soon after one was committed
    wanted, before, limit = ".saving" if kill % 2 else "", set(names()), time.time() + 30
    while time.time() < limit and not any(
        wanted in n if wanted else "." not in n for n in set(names()) - before
    ):
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(kill, *names(), file=sys.stderr, flush=True)
"""


def test_killed_at_any_instant_the_last_good_one_restores_exactly(tmp_path: Path) -> None:
    folder, kills = tmp_path / "checkpoints", 4
    out = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(kills)], capture_output=True, text=True
    )
    told = ("checkpoints/", "the save of step")  # what was removed; a slow disk is waited for
    lines = [line for line in out.stdout.splitlines() if not line.startswith(told)]
    assert out.returncode == 0, out.stderr[-2000:]
    assert all(line.isdigit() for line in lines) and len(lines) == kills, out.stdout
    steps = [int(line) for line in lines]
    assert steps == sorted(steps) and steps[-1] > 0, steps  # what was committed is never lost
    reader = CheckpointReader(folder)
    assert reader.latest() >= steps[-1]
    assert ".saving" in out.stderr, "no kill met a save: the test tests nothing"


RANK = """
import os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, numpy as np
from pathlib import Path
rank, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
jax.distributed.initialize(f"localhost:{port}", 2, rank)
from jax.sharding import NamedSharding, PartitionSpec
from jaxlm.mesh import MeshConfig
from jaxlm.checkpoint.writer import CheckpointConfig, Checkpointer
from jaxlm.checkpoint.hashing import param_sha256

mesh = MeshConfig(fsdp=4, data=1).build()
want = np.arange(64, dtype=np.float32).reshape(8, 8)
specs = {"w": PartitionSpec("fsdp"), "r": PartitionSpec()}
state = {k: jax.make_array_from_callback((8, 8), NamedSharding(mesh, s), lambda i: want[i])
         for k, s in specs.items()}
saver = Checkpointer(folder, CheckpointConfig(every_steps=None, every_minutes=1.0))
assert saver.clean() == [] and saver.latest() is None
# process 1's clock is an hour ahead: process 0's counts
assert [s for s in range(0, 60, 5) if saver.due(s, s * 2.0 + 3600 * rank * (s > 0))] == [30]
step = jax.jit(lambda s: {k: x * 0 for k, x in s.items()}, donate_argnums=0)
abstract = {k: jax.ShapeDtypeStruct((8, 8), x.dtype, sharding=x.sharding) for k, x in state.items()}
assert saver.save(1, state, {"data.json": b"{}"})
digest = param_sha256(state)
state = step(state)  # collectives of the training beside the save
assert saver.wait(), saver.status()
for number in (2, 3):
    assert saver.save(number, state, {}, force=True), saver.status()
if rank == 0:
    path = next((folder / "00000003" / "orbax" / "state" / "ocdbt.process_1").rglob("d/*"))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    (folder / "00000002" / "state.json").unlink()
saver._steps()  # both have seen it
assert saver.latest() == 1
got = saver.restore(1, abstract)
assert param_sha256(got) == digest
saver.folder = folder / "00000001" / "state.json"  # a file: no folder can be made in it
assert not saver.save(9, state, {}), "both learn of process 0's failure"
print(digest, saver.status())
"""


def test_two_processes_save_verify_and_restore(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    words = [[str(rank), str(port), str(tmp_path / "checkpoints")] for rank in range(2)]
    codes, outputs = run_programs(RANK, words, [{}, {}])
    assert codes == [0, 0], outputs
    last = [output.splitlines()[-1] for output in outputs]
    assert last[0].split()[0] == last[1].split()[0]
    assert all("failed 9: " in line for line in last)
    sums = json.loads((tmp_path / "checkpoints" / "00000001" / "checksums.json").read_text())
    assert any("ocdbt.process_1" in name for name in sums["files"])
