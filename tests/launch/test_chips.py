"""The chips of a target are compared with a run's mesh before a machine is requested."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT, SMOKE

from jaxlm import cli
from jaxlm.core.config import UserError, parse
from jaxlm.core.exit_codes import DONE, MISTAKE
from jaxlm.launch.chips import tpu_chips
from jaxlm.launch.targets.base import LaunchConfig

PUBLISHED = sorted((ROOT / "configs/pretrain").glob("*.yaml"))
MEANT = "mesh.topology=v6e:16x16"
GKE = {"image": "i", "bucket": "b", "accelerator": "tpu-v5p-slice", "topology": "2x2x4"}
SKY = {"bucket": "gs://b"}
VM = {"zone": "z", "runtime_version": "r", "bucket": "gs://b"}


def launched(capsys: pytest.CaptureFixture, file: str, *words: str) -> tuple[int, str]:
    """(exit code, the error) of a dry run of a shipped launch file."""
    code = cli.main(["launch", str(ROOT / "launch" / f"{file}.yaml"), SMOKE, "--dry-run", *words])
    return code, capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("file", "words", "said"),
    [
        (
            "tpu_vm",
            [MEANT],
            "mesh.topology: v6e:16x16 is 256 chips of v6e, but accelerator_type: v5p-32 is 16 "
            "chips of v5p; launch it on the chips of its topology, or set mesh.topology=null",
        ),
        (
            "tpu_vm",
            ["mesh.data=1", "mesh.fsdp=256"],
            "mesh: fsdp 256 does not match the 16 devices of accelerator_type: v5p-32; "
            "set mesh.fsdp=16, or launch it on",
        ),
        (
            "gke",
            ["mesh.topology=v5p:4x4x2"],  # as many chips, but in one slice
            "is 32 chips of v5p, but accelerator: tpu-v5p-slice, topology: 2x2x4, slices: 2 is 32 "
            "chips of v5p in 2 slices; launch it on the chips of its topology, or set "
            "mesh.topology=2*v5p:2x2x4",
        ),
        (
            "gke",
            ["mesh.data=1", "mesh.fsdp=256"],
            "set mesh.data=2 mesh.fsdp=16, or launch",
        ),
        (
            "gke",
            ["mesh.data=1", "mesh.fsdp=32"],
            "mesh.data: 1 is not a multiple of the 2 slices",
        ),
        (
            "slurm",
            [MEANT],
            "but nodes: 2, gpus_per_node: 8, tasks_per_node: 8 is 16 GPUs;",
        ),
        ("slurm", ["mesh.tensor=3"], "mesh: data -1 x tensor 3 does not match the 16 devices"),
        (
            "skypilot",
            ["mesh.topology=a100:2x8"],
            "a100:2x8 is 16 GPUs of a100, but accelerators: H100:8, num_nodes: 2 is 16 GPUs of",
        ),
        ("skypilot", ["mesh.topology=h100:4x8"], "h100:4x8 is 32 GPUs of h100, but"),
        ("gpu_host", [MEANT], "v6e:16x16 is 256 chips of v6e, but gpu_host is GPUs;"),
        (
            "local",
            ["mesh.num_devices=9"],
            "mesh.num_devices: 9, but processes: 4, devices: 2 has 8 devices; set",
        ),
    ],
)
def test_a_mesh_of_other_machines_is_a_mistake(capsys, file, words, said):
    code, told = launched(capsys, file, *words)
    assert code == MISTAKE and said in told and "\n" not in told


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("tpu_vm", ["mesh.topology=v5p:2x2x4", "mesh.data=1", "mesh.fsdp=16"]),
        ("gke", ["mesh.topology=2*v5p:2x2x4", "mesh.data=2", "mesh.fsdp=16"]),
        ("slurm", ["mesh.topology=h100:2x8"]),  # which GPUs a queue has is not told
        ("skypilot", ["mesh.topology=h100:2x8"]),
        ("gpu_host", ["mesh.topology=a100:1x8", "mesh.fsdp=7"]),  # how many there are is not
        ("local", [MEANT]),  # simulated
        ("tpu_vm", ["mesh.topology=v5p:2x2x4", "mesh.num_devices=8"]),
    ],
)
def test_a_mesh_that_goes_there(capsys, file, words):
    assert launched(capsys, file, *words) == (DONE, "")


@pytest.mark.parametrize("action", ["logs", "status", "delete"])
def test_what_runs_already_is_followed_and_removed_all_the_same(capsys, action):
    assert launched(capsys, "tpu_vm", MEANT, "--action", action)[0] == DONE
    assert launched(capsys, "tpu_vm", MEANT, "--action", "create")[0] == MISTAKE


@pytest.mark.parametrize(
    ("name", "kind", "chips", "devices"),
    [
        ("v5p-32", "v5p", 16, 16),
        ("v4-8", "v4", 4, 4),
        ("v3-8", "v3", 4, 8),
        ("v5litepod-16", "v5e", 16, 16),
        ("v6e-256", "v6e", 256, 256),
        ("tpu-v6e-8", "v6e", 8, 8),
        ("tpu7x-128", "tpu7x", None, None),
    ],
)
def test_accelerator_types(name, kind, chips, devices):
    found = tpu_chips("x", name)
    assert found is not None
    assert (found.kind, found.count, found.devices) == (kind, chips, devices)


@pytest.mark.parametrize(
    ("values", "kind", "count"),
    [
        ({"type": "gke", **GKE, "accelerator": "tpu-v5-lite-podslice"}, "v5e", 16),
        ({"type": "gke", **GKE, "accelerator": "tpu-v6e-slice", "slices": 3}, "v6e", 48),
        ({"type": "gke", **GKE, "accelerator": "tpu7x"}, "tpu7x", 16),
        ({"type": "skypilot", **SKY, "accelerators": "A100-80GB:4", "num_nodes": 3}, "a100", 12),
        ({"type": "skypilot", **SKY, "accelerators": "H100"}, "h100", 1),
        ({"type": "skypilot", **SKY, "accelerators": "tpu-v5p-8:1"}, "v5p", 4),
        ({"type": "slurm", "nodes": 2, "gpus_per_node": 8}, "gpu", 16),
        ({"type": "slurm", "nodes": 2, "gpus_per_node": 8, "tasks_per_node": 4}, "gpu", 8),
        ({"type": "gpu_host", "gpus": [0, 3]}, "gpu", 2),
    ],
)
def test_what_targets_report(values, kind, count):
    found = parse(LaunchConfig, values).chips()
    assert found is not None and (found.kind, found.count) == (kind, count)


@pytest.mark.parametrize(
    "values",
    [
        {"type": "slurm", "nodes": 2},
        {"type": "local"},
        {"type": "tpu_vm", **VM, "accelerator_type": "v99-8"},
        {"type": "gke", **GKE, "accelerator": "nvidia-l4"},
    ],
)
def test_what_is_not_told_is_not_checked(values):
    assert parse(LaunchConfig, values).chips() is None


@pytest.mark.parametrize("config", PUBLISHED, ids=lambda p: p.stem)
def test_the_published_configs_go_where_they_are_meant_to(config: Path):
    """On a slice of GKE of their own topology, and nowhere else."""
    from jaxlm.core.config import to_dict
    from jaxlm.launch.chips import check_mesh
    from jaxlm.run import load_run

    mesh = to_dict(load_run(config).config)["mesh"]
    if mesh["topology"] is None:
        pytest.skip("is meant for no pod")
    slices, _, text = mesh["topology"].rpartition("*")
    name, _, shape = text.partition(":")
    kind = {"v5e": "tpu-v5-lite-podslice"}.get(name, f"tpu-{name}-slice")
    own = {**GKE, "type": "gke", "accelerator": kind, "topology": shape}
    own["slices"] = int(slices or 1)  # type: ignore[assignment]
    check_mesh(parse(LaunchConfig, own).chips(), mesh)
    with pytest.raises(UserError):
        check_mesh(parse(LaunchConfig, own | {"topology": "2x2"}).chips(), mesh)


@pytest.mark.parametrize("file", sorted((ROOT / "launch").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_launch_files_have_the_first_runs(file: Path, capsys: pytest.CaptureFixture):
    for config in [ROOT / "configs/quickstart.yaml", *(ROOT / "configs/smoke").glob("*.yaml")]:
        assert cli.main(["launch", str(file), str(config), "--dry-run"]) == DONE, config
    capsys.readouterr()
