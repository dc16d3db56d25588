"""Who may import whom, and what stays out of a process that does not need it."""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax",
    "grain",
    "tensorstore",
    "sentencepiece",
    "numpy",
)


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def loaded(statement: str, among: tuple[str, ...] = HEAVY) -> list[str]:
    """Those of the modules `among` that a fresh process holds after `statement`."""
    program = f"import sys\n{statement}\nprint(*[m for m in {among!r} if m in sys.modules])"
    done = run("-c", program)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def modules_of(package: str) -> list[str]:
    folder = ROOT.joinpath(*package.split("."))
    return [f"{package}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem[0] != "_"]


def test_the_check_itself_sees_jax():
    assert "jax" in loaded("import jaxlm.mesh")


VERBS = ", ".join(modules_of("jaxlm.cli"))


@pytest.mark.parametrize(
    "module",
    [
        "jaxlm",
        "jaxlm.core.config",
        "jaxlm.core.types",
        "jaxlm.core.tree",
        "jaxlm.distributed.xla_flags",
        "jaxlm.cli",
        VERBS,
    ],
)
def test_the_command_line_starts_without_anything_heavy(module):
    assert loaded(f"import {module}") == []


def test_launch_never_imports_jax():
    """A laptop plans and watches; the run's config alone needs more."""
    modules = modules_of("jaxlm.launch")
    assert len(modules) > 8
    assert loaded(f"import {', '.join(modules)}") == []


def test_data_never_imports_jax():
    modules = modules_of("jaxlm.data")
    assert len(modules) > 5
    assert loaded(f"import {', '.join(modules)}", ("jax", "jaxlib", "flax", "optax", "orbax")) == []


SHOW = ["config", "show", "configs/quickstart.yaml", "train.steps=3"]


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [(["--help"], 0.4), (["train", "--help"], 0.4), (["--version"], 0.4), (SHOW, 1)],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_needs_no_jax_answers_quickly(arguments, seconds):
    """In seconds of this process's own work, which a busy machine does not stretch as much."""
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run("-m", "jaxlm", *arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0 and done.stdout, done.stderr
        took.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(took) < seconds


def test_imports_run_one_way():
    if importlib.util.find_spec("importlinter") is None:
        pytest.skip("import-linter is not installed; pip install 'jaxlm[dev]'")
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_no_module_is_imported_for_its_effect_alone():
    """Every module imports by itself, in any order: none leans on another's having run before."""
    modules = ["jaxlm.doctor", "jaxlm.run", "jaxlm.generate", "jaxlm.evals.loss", "jaxlm.report"]
    for package in (
        "adapters",
        "cli",
        "cli.shared",
        "evals",
        "kernels",
        "mesh",
        "models",
        "nn",
        "objectives",
        "optim",
        "tasks",
        "training",
    ):
        found = modules_of(f"jaxlm.{package}")
        assert found, f"jaxlm.{package} has no modules"
        modules += found
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    for known in [m for m in sys.modules if m.startswith('jaxlm')]:\n"
        "        del sys.modules[known]\n"
        "    importlib.import_module(name)\n"
    )
    done = run("-c", program)
    assert done.returncode == 0, done.stderr
