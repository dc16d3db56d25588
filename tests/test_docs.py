"""The guides are followed step by step in an empty folder, and the README keeps its form."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from jaxlm.cli import main
from jaxlm.core import exit_codes
from tests import guides, tiny
from tools import config_reference

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
pytestmark = pytest.mark.usefixtures("shared_programs")  # many pages train the same config

CONTINUES = "<!-- continues: runs/transformer of getting-started.md -->"


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that getting-started.md makes with its first command, for the pages after it."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "configs").symlink_to(ROOT / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("JAXLM_CACHE", tiny.cache_dir())
        assert main(["train", "configs/smoke/transformer.yaml", "mesh.num_devices=1"]) == 0
    return folder / "runs/transformer"


@pytest.fixture
def empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """An empty folder next to the repository's configs, which a user has after installation."""
    for name in ("configs", "launch"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXLM_CACHE", tiny.cache_dir())
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("name", PAGES)
def test_a_guide_is_followed_from_an_empty_folder(name: str, empty: Path, trained: Path) -> None:
    page = ROOT / "docs" / name
    if page.read_text().startswith(CONTINUES):
        shutil.copytree(trained, empty / "runs/transformer")
    guides.follow(page)


@pytest.mark.parametrize("path", ["README.md", *(f"docs/{name}" for name in PAGES)])
def test_each_block_of_commands_is_run_or_says_why_not(path: str) -> None:
    text = (ROOT / path).read_text()
    for block in guides.blocks(text):
        place = f"{path}:{block.line}"
        assert block.language, f"{place}: a block needs a language, `text` if it is output"
        assert path != "README.md" or not block.is_run, f"{place}: its commands are run elsewhere"
        if block.note.startswith(guides.NOT_RUN):
            assert len(block.note) > len(guides.NOT_RUN) + 10, f"{place}: the reason is missing"


def test_the_reference_of_all_settings_is_current() -> None:
    assert config_reference.PAGE.read_text() == config_reference.page(), (
        "a field has changed; run: python tools/config_reference.py"
    )


def test_contributing_names_places_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("| to add |") :].partition("\n\n")[0]
    for path in re.findall(r"`((?:jaxlm|tests|configs|launch|tools)/[^`]*)`", table):
        place = ROOT / path.replace("NAME.py", "").replace("NAME.yaml", "")
        assert place.exists(), f"CONTRIBUTING.md: {path}"


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", *(f"docs/{n}" for n in PAGES)])
def test_links_lead_somewhere(path: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / path).read_text()):
        if "://" not in target:
            assert (ROOT / path).parent.joinpath(target).exists(), f"{path}: {target}"


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    length = 0
    for number, line in enumerate(lines, 1):
        is_text = bool(line.strip()) and not re.match(r"[#|<>`!]|- |\d+\. ", line)
        starts = bool(re.match(r"- |\d+\. ", line))
        length = 1 if starts else length + 1 if is_text else 0
        assert length <= 4, f"README.md:{number}: a paragraph of more than four lines"


def test_troubleshooting_has_every_exit_code_and_twenty_errors() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text()
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.M)}
    assert codes == {v for v in vars(exit_codes).values() if isinstance(v, int)} | {1}
    errors = [block for block in guides.blocks(text) if block.language == "text" and block.follows]
    assert len(errors) >= 20


def test_the_first_two_commands_of_the_readme_are_those_that_ci_runs() -> None:
    commands = [b.text for b in guides.blocks((ROOT / "README.md").read_text()) if b.is_command]
    assert [text.split(" && ")[-1].split()[0] for text in commands[:2]] == [
        ".venv/bin/jaxlm",
        ".venv/bin/pytest",
    ]
