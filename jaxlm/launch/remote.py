"""Shell scripts that run on the hosts of a pod: install, mount, start, stop, report the outcome.

They are sent as files, so the commands that call them are short and contain no secrets. The run
starts in its own session: a broken connection does not end it.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxlm.launch.shell import NEWEST, assignments, fill

# The images of TPU VMs have Python 3.10, which is too old: uv brings its own.
INSTALL = """\
export PATH="$HOME/.local/bin:$PATH"
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
[ -x "$HOME/jaxlm-venv/bin/python" ] || uv venv --quiet --python 3.12 "$HOME/jaxlm-venv"
"""

# gcsfuse renames a folder by renaming each object in it, up to a limit; with a hierarchical
# namespace it is one operation.
MOUNT = """\
if ! mountpoint -q {mount}; then
    if ! command -v gcsfuse >/dev/null; then
        key=/usr/share/keyrings/cloud.google.asc
        repo=gcsfuse-$(lsb_release -cs)
        site=https://packages.cloud.google.com/apt
        curl -sSf $site/doc/apt-key.gpg | sudo tee $key >/dev/null
        echo "deb [signed-by=$key] $site $repo main" |
            sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
        sudo apt-get -qq update && sudo apt-get -qq install -y gcsfuse
    fi
    sudo mkdir -p {mount} && sudo chown "$(id -u)" {mount}
    gcsfuse --implicit-dirs --rename-dir-limit=100000 {bucket} {mount}
fi
"""

START = """\
#!/bin/bash
# Starts the run on this host, unless it is running.
cd "$(dirname "$0")" || exit 1
if [ -f pid ] && kill -0 "$(cat pid)" 2>/dev/null; then echo "already running"; exit 0; fi
rm -f exit_code
setsid nohup bash run.sh >> log.txt 2>&1 < /dev/null &
echo $! > pid
"""

STOP = """\
#!/bin/bash
# Ends the rest of the run on this host.
cd "$(dirname "$0")" || exit 0
[ -f pid ] && kill -KILL -- "-$(cat pid)" 2>/dev/null
rm -f pid
exit 0
"""

FOLLOW = """\
#!/bin/bash
# Shows the log until the run on this host ends.
cd "$(dirname "$0")" || exit 1
exec tail -n 50 -F --pid="$(cat pid)" log.txt
"""

OUTCOME = """\
#!/bin/bash
# Reports how the run ended on this host. Processes end within a minute of one another.
cd "$(dirname "$0")" || exit 1
for _ in $(seq 90); do [ -s exit_code ] && break; sleep 1; done
[ -s exit_code ] && echo "jaxlm-exit $(cat exit_code)"
run_dir={run_dir}
{newest}
step=$(newest)
echo "jaxlm-checkpoint $((10#${{step:-0}}))"
"""


def setup_script(requirement: str, archive: str | None, bucket: str | None, mount: str) -> str:
    """Installs jaxlm, from an archive of its source if there is one, and mounts the bucket."""
    lines = ["#!/bin/bash", "# Prepares this host.", "set -euo pipefail", 'cd "$(dirname "$0")"']
    lines.append(INSTALL.rstrip())
    if archive is not None:
        lines.append(fill("rm -rf source && mkdir source && tar -xzf {tar} -C source", tar=archive))
        requirement = "./source[tpu]"
    install = 'uv pip install --quiet --python "$HOME/jaxlm-venv" {requirement}'
    lines.append(fill(install, requirement=requirement))
    if bucket is not None:
        lines.append(fill(MOUNT, mount=mount, bucket=bucket.removeprefix("gs://")).rstrip())
    return "\n".join(lines) + "\n"


def run_script(environment: Mapping[str, str], secrets: bool) -> str:
    """Trains on this host, and keeps the exit code."""
    lines = ["#!/bin/bash", "# Trains on this host.", 'cd "$(dirname "$0")" || exit 1']
    lines += assignments(environment, "export ")
    if secrets:
        lines.append(". ./secrets.env")
    lines += ['"$HOME/jaxlm-venv/bin/python" -u -m jaxlm train run.yaml', "echo $? > exit_code"]
    return "\n".join(lines) + "\n"


def outcome_script(run_dir: str) -> str:
    """Prints the exit code of the run on this host, and its newest checkpoint."""
    return fill(OUTCOME, run_dir=run_dir, newest=NEWEST)
