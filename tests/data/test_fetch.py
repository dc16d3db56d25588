"""Fetching pinned packages, with pip served from a folder that the tests build: no network."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import multiprocessing
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from jaxlm.core.config import UserError
from jaxlm.data.reading import fetch as fetch_module
from jaxlm.data.reading.archives import installed_members, read_members
from jaxlm.data.reading.fetch import fetch, parse_requirement
from jaxlm.data.sources.package import PackageFiles, package_members

BACKEND = """
import os
def prepare_metadata_for_build_wheel(directory, settings=None):
    os.makedirs(f"{directory}/bardtexts-1.0.dist-info")
    with open(f"{directory}/bardtexts-1.0.dist-info/METADATA", "w") as file:
        file.write("Metadata-Version: 2.1\\nName: bardtexts\\nVersion: 1.0\\n")
    return "bardtexts-1.0.dist-info"
def build_wheel(*args):
    raise RuntimeError("a download needs no wheel")
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
TEXTS = {"a_gut.txt": "To be,\nor not to be", "b_gut.txt": "été", "c_gut_f.txt": "folio"}


def tar_bytes(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def sdist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An sdist in the only folder that pip is told of; an empty cache."""
    inner = tar_bytes({"scores/s.txt": b"1\t-2.5\tdull\n2\t0.1\tso so\n3\t3.0\tbright\n"})
    files = {f"bardtexts-1.0/data/texts/{k}": v.encode() for k, v in TEXTS.items()}
    files |= {
        "bardtexts-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: bardtexts\nVersion: 1.0\n",
        "bardtexts-1.0/pyproject.toml": PYPROJECT.encode(),
        "bardtexts-1.0/backend.py": BACKEND.encode(),
        "bardtexts-1.0/extra/scores.tar.gz": inner,
    }
    links = tmp_path / "links"
    links.mkdir()
    path = links / "bardtexts-1.0.tar.gz"
    path.write_bytes(tar_bytes(files))
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    package_members.cache_clear()
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_fetches_once_says_so_and_serves_from_the_cache(sdist, tmp_path):
    pin, said = sha256(sdist), []
    first = fetch("bardtexts==1.0", pin, report=said.append)
    assert first.read_bytes() == sdist.read_bytes()
    assert first.is_relative_to(tmp_path / "cache")
    sdist.unlink()  # from now on pip finds nothing
    assert fetch("bardtexts == 1.0", pin, report=said.append) == first
    assert len(said) == 1 and said[0].startswith("fetching bardtexts==1.0 (once; cached in ")
    assert not list((tmp_path / "cache" / "packages").glob(".fetch-*"))


def test_offline_with_a_cold_cache_is_one_clear_line(sdist, tmp_path):
    pin = sha256(sdist)
    sdist.unlink()
    with pytest.raises(UserError, match="cannot fetch .*: pip says: .*connect") as error:
        fetch("bardtexts==1.0", pin, report=lambda line: None)
    assert "\n" not in str(error.value)
    # The fix that the message names works: the archive put into the folder by hand.
    folder = Path(str(error.value).rpartition("into ")[2])
    assert folder.is_relative_to(tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bardtexts-1.0.tar.gz").write_bytes(b"another file")
    with pytest.raises(UserError, match="is not the pinned archive"):
        fetch("bardtexts==1.0", pin)


def test_another_checksum_keeps_and_runs_nothing(sdist, tmp_path):
    with tarfile.open(sdist) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    ran = tmp_path / "ran"
    evil = f"open({str(ran)!r}, 'w').close()\n" + BACKEND
    pin = sha256(sdist)
    sdist.write_bytes(tar_bytes(files | {"bardtexts-1.0/backend.py": evil.encode()}))
    with pytest.raises(UserError, match=f"SHA-256 is {sha256(sdist)}, pinned is {pin}"):
        fetch("bardtexts==1.0", pin, report=lambda line: None)
    assert not ran.exists()
    fetch("bardtexts==1.0", sha256(sdist), report=lambda line: None)
    assert ran.exists()  # the check above can fail: pip does run the backend of the pinned archive


def test_a_damaged_cache_is_named(sdist):
    path = fetch("bardtexts==1.0", sha256(sdist), report=lambda line: None)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not the pinned archive .*delete it"):
        fetch("bardtexts==1.0", sha256(sdist))


def test_without_pip(sdist, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        fetch_module.importlib.util, "find_spec", lambda name: None if name == "pip" else find(name)
    )
    with pytest.raises(UserError, match="this Python has no pip; install pip, or put"):
        fetch("bardtexts==1.0", sha256(sdist), report=lambda line: None)


@pytest.mark.parametrize("requirement", ["bardtexts", "bardtexts>=1.0", "bardtexts==1.0; x", "a b"])
def test_only_pinned_requirements(requirement):
    with pytest.raises(UserError, match="write name==version"):
        parse_requirement(requirement)
    assert parse_requirement("Bard_Texts.X==1.0") == ("bard-texts-x", "1.0")


def _fetch_and_count(pin: str, queue) -> None:
    said: list[str] = []
    queue.put((str(fetch("bardtexts==1.0", pin, report=said.append)), len(said)))


def test_processes_at_the_same_time_download_once(sdist):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [
        context.Process(target=_fetch_and_count, args=(sha256(sdist), queue)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert len({path for path, _ in results}) == 1
    assert sorted(said for _, said in results) == [0, 0, 1]


def test_members_by_pattern_and_inside_members(sdist):
    texts = read_members(sdist, ["texts/*_gut.txt"])
    assert {k: v.decode() for k, v in texts.items()} == {
        f"data/texts/{k}": v for k, v in TEXTS.items() if k.endswith("_gut.txt")
    }
    inner = read_members(sdist, ["extra/scores.tar.gz!s.txt"])
    assert list(inner) == ["extra/scores.tar.gz!s.txt"]
    assert inner["extra/scores.tar.gz!s.txt"].startswith(b"1\t-2.5")
    with pytest.raises(UserError, match=r"no file matches 'texts/\*\.md'"):
        read_members(sdist, ["texts/*_gut.txt", "texts/*.md"])
    with pytest.raises(UserError, match="no file matches"):
        read_members(sdist, ["extra/scores.tar.gz!nothing.txt"])
    with pytest.raises(UserError, match="not an archive"):
        read_members(sdist, ["texts/a_gut.txt!x"])
    sdist.write_bytes(sdist.read_bytes()[:200])
    with pytest.raises(UserError, match="a damaged archive"):
        read_members(sdist, ["texts/*_gut.txt"])


def test_members_are_read_in_place(tmp_path, monkeypatch):
    """Names that climb out of the archive are only names: nothing is written anywhere."""
    monkeypatch.chdir(tmp_path)
    archive = tmp_path / "x-1.tar.gz"
    archive.write_bytes(tar_bytes({"x-1/../../evil.txt": b"evil"}))
    assert list(read_members(archive, ["evil.txt"]).values()) == [b"evil"]
    assert [p.name for p in tmp_path.rglob("*")] == ["x-1.tar.gz"]


def test_zip_and_wheel(tmp_path):
    for name, prefix in (("x-1.zip", "x-1/"), ("x-1-py3-none-any.whl", "")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(f"{prefix}pkg/a.txt", "text")
        assert read_members(tmp_path / name, ["pkg/*.txt"]) == {"pkg/a.txt": b"text"}


def test_an_installed_package_needs_no_archive(sdist, tmp_path, monkeypatch):
    site = tmp_path / "site"
    info = site / "bardtexts-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "data" / "texts").mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bardtexts\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"data/texts/{name},,\n" for name in TEXTS))
    for name, text in TEXTS.items():
        (site / "data" / "texts" / name).write_text(text, encoding="utf-8")
    pin = sha256(sdist)
    source = PackageFiles(requirement="bardtexts==1.0", sha256=pin, files=("texts/*_gut.txt",))
    from_archive = source.fingerprint()
    names = [d.name for d in source.documents()]
    monkeypatch.syspath_prepend(str(site))
    found = installed_members("bardtexts==1.0", ["texts/*_gut.txt"])
    assert found == {f"data/texts/{n}": TEXTS[n].encode() for n in ("a_gut.txt", "b_gut.txt")}
    assert installed_members("bardtexts==1.1", ["texts/*_gut.txt"]) is None
    assert installed_members("bardtexts==1.0", ["extra/scores.tar.gz!s.txt"]) is None
    package_members.cache_clear()
    sdist.unlink()
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cold"))
    assert [d.name for d in source.documents()] == names
    assert source.fingerprint() == from_archive
    (info / "RECORD").write_text("data/texts/a_gut.txt,sha256=AAAA,5\n")
    with pytest.raises(UserError, match=r"a_gut\.txt: changed since bardtexts==1\.0 was installed"):
        installed_members("bardtexts==1.0", ["texts/a_gut.txt"])


def npm_archive(folder: Path) -> Path:
    """The archive of a package of npm, where a registry has it."""
    path = folder / "toy-words/-/toy-words-1.2.0.tgz"
    path.parent.mkdir(parents=True)
    path.write_bytes(tar_bytes({"package/dict/a.txt": b"to be", "package/package.json": b"{}"}))
    return path


@pytest.mark.parametrize("installed", [True, False])
def test_a_package_of_npm_comes_by_npm_or_from_its_registry(tmp_path, monkeypatch, installed):
    path = npm_archive(tmp_path / "registry")
    (tmp_path / "bin").mkdir()
    if installed:  # npm pack NAME@VERSION --pack-destination FOLDER
        npm = tmp_path / "bin/npm"
        npm.write_text(
            f'#!/bin/sh\n[ "$2" = toy-words@1.2.0 ] && /bin/cp {path} $4 && exit\n'
            'echo "npm ERR! 404 Not Found" >&2\nexit 1\n'
        )
        npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", (tmp_path / "registry").as_uri())
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    source = PackageFiles(
        requirement="toy-words==1.2.0", sha256=sha256(path), archive="npm", files=("dict/*.txt",)
    )
    assert [(d.name, d.text) for d in source.documents()] == [("dict/a.txt", "to be")]
    with pytest.raises(UserError, match="SHA-256 is .*, pinned is"):
        fetch("toy-words==1.2.0", "0" * 64, archive="npm", report=lambda line: None)
    says = "npm says: 404" if installed else "registry/toy-words/-/toy-words-9.tgz gives"
    with pytest.raises(UserError, match=f"cannot fetch toy-words==9: .*{says}.*; connect"):
        fetch("toy-words==9", sha256(path), archive="npm", report=lambda line: None)
