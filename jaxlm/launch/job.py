"""A run to launch: its resolved config, and the folder of the launch's files.

    job = Job.of(to_dict(config), name=None)
    job.name, job.run_dir                        # "quickstart", "runs/quickstart"
    job.config_under("/mnt/runs")                # YAML whose run_dir is /mnt/runs/runs/quickstart

The config is sent as one YAML, with includes and overrides resolved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.config_yaml import dump_yaml
from jaxlm.launch.names import check_run_dir

STAGE = ".jaxlm-launch"  # in the working directory of the launch
MAX_NAME = 40  # JobSet, pods and TPU VMs append to it, and 63 is their limit


@dataclass(frozen=True)
class Job:
    """A run to launch. `values` is its whole config as plain values."""

    name: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, values: Mapping[str, Any], name: str | None) -> Job:
        """`name`: of machine, job and folder; None: from the last part of the run's folder."""
        check_run_dir(str(values["run_dir"]))
        if name is None:
            words = re.findall(r"[a-z0-9]+", PurePosixPath(values["run_dir"]).name.lower())
            name = "-".join(words)[:MAX_NAME].strip("-")
            if not name[:1].isalpha():
                name = f"run-{name}"[:MAX_NAME].strip("-")
        if not re.fullmatch(rf"[a-z]([a-z0-9-]{{0,{MAX_NAME - 2}}}[a-z0-9])?", name):
            raise UserError(
                f"name: {name!r} is not a name for a machine or job; write at most {MAX_NAME} "
                "lower-case letters, digits and hyphens, starting with a letter"
            )
        return cls(name, values)

    @property
    def run_dir(self) -> str:
        return str(self.values["run_dir"])

    @property
    def stage(self) -> Path:
        """The folder of the launch's files on this machine."""
        return Path(STAGE) / self.name

    def run_dir_under(self, root: str) -> str:
        """The run's folder on storage that is mounted at `root` on the machines."""
        path = PurePosixPath(self.run_dir)
        if ".." in path.parts:
            raise UserError(f"run_dir: {self.run_dir} leads out of {root}; write it without ..")
        if not path.is_absolute():
            return str(PurePosixPath(root) / path)
        if not path.is_relative_to(root):
            raise UserError(
                f"run_dir: {self.run_dir} is not on the storage that outlives the machines "
                f"({root}); write a folder below it, or a relative one"
            )
        return self.run_dir

    def config_under(self, root: str | None = None) -> str:
        """The run's config as YAML; with `root`, its folder is on the storage mounted there."""
        if root is None:
            return dump_yaml(self.values)
        return dump_yaml({**self.values, "run_dir": self.run_dir_under(root)})
