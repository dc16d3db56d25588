"""A launch target in a file of one's own, with a template beside it, and nothing added to jaxlm."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import SMOKE

from jaxlm import cli
from jaxlm.core.exit_codes import DONE

TARGET = '''
from dataclasses import dataclass
from pathlib import Path

from jaxlm.core.config import REQUIRED, field
from jaxlm.launch.shell import script
from jaxlm.launch.steps import Command, WriteFile
from jaxlm.launch.targets.base import LaunchConfig, LaunchPlan

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Batch(LaunchConfig):
    """Jobs of a batch system."""

    queue: str = field(REQUIRED, "queue of the job")

    def plan(self, job):
        path = job.stage / "batch.sh"
        text = script("batch.sh", HERE, queue=self.queue, run_dir=job.run_dir, env=self.env)
        write = WriteFile(why="write the job", path=path, text=text)
        submit = Command(why="submit the job", argv=("bsub", str(path)))
        return LaunchPlan(actions={"run": (write, submit)}, attempt=(write, submit))
'''
TEMPLATE = """\
#BSUB -q {{ queue | line }}
{% for name, value in env.items() %}
export {{ name | line }}={{ value }}
{% endfor %}
run_dir={{ run_dir }}
{% include "newest.sh" %}
"""


def test_a_target_outside_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "my_batch.py").write_text(TARGET)
    (tmp_path / "batch.sh").write_text(TEMPLATE)
    (tmp_path / "batch.yaml").write_text(
        "type: my_batch:Batch\nqueue: long\nenv: {A: 'x; touch canary'}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["launch", "batch.yaml", SMOKE, "--dry-run", "run_dir=runs/$(touch canary)"]
    assert cli.main([*words]) == DONE
    shown = capsys.readouterr().out
    lines = ["#BSUB -q long", "export A='x; touch canary'", "run_dir='runs/$(touch canary)'"]
    assert all(line in shown for line in lines), shown
    assert 'newest() { ls -- "$run_dir/checkpoints"' in shown
    assert "bsub .jaxlm-launch/" in shown
