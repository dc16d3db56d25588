"""Shell scripts that run on the hosts of a pod: install, mount, start, stop, report the outcome.

They are sent as files, so the commands that call them are short and contain no secrets. The run
starts in its own session: a broken connection does not end it.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxlm.launch.shell import script


def scripts(
    *,
    run_dir: str,
    environment: Mapping[str, str],
    secrets: bool,
    requirement: str,
    archive: str | None,
    bucket: str | None,
    mount: str,
) -> dict[str, str]:
    """{file: text} of all scripts of a host. archive: jaxlm's source, to install instead."""
    return {
        "setup.sh": setup_script(requirement, archive, bucket, mount),
        "run.sh": script("host_run.sh", environment=environment, secrets=secrets),
        "start.sh": script("host_start.sh"),
        "stop.sh": script("host_stop.sh"),
        "follow.sh": script("host_follow.sh"),
        "outcome.sh": script("host_outcome.sh", run_dir=run_dir),
    }


def setup_script(requirement: str, archive: str | None, bucket: str | None, mount: str) -> str:
    """Installs jaxlm, from an archive of its source if there is one, and mounts the bucket."""
    return script(
        "host_setup.sh",
        requirement=requirement if archive is None else "./source[tpu]",
        archive=archive,
        bucket=None if bucket is None else bucket.removeprefix("gs://"),
        mount=mount,
    )
