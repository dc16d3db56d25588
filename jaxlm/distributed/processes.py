"""Start of the processes of a run, and their common end when one of them fails.

    init_processes()                            # before any call that needs jax's devices
    init_processes("10.0.0.1:8476", 4, 0)       # the same, with arguments
    with failing_together():                    # an error in this block ends all processes
        train(...)

A collective that waits for a dead process waits forever. A process that is killed, or whose host
fails, is noticed by its missing heartbeats: by `jaxlm.distributed.heartbeats` after about half a
minute, and by jax a little later if that thread does not run.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from jaxlm.core.config import UserError
from jaxlm.distributed.heartbeats import Peers
from jaxlm.distributed.memory import keep_freed_memory
from jaxlm.distributed.xla_flags import order_collectives, order_simulated

HEARTBEAT_SECONDS = 45  # of jax, the fallback: its error gives no advice

_PEERS: list[Peers] = []  # those of this process; empty if it is alone


def init_processes(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the processes of a run, as the arguments, the environment, the pod or Slurm say.

    The environment is JAXLM_COORDINATOR ("host:port"), JAXLM_NUM_PROCESSES and JAXLM_PROCESS_ID.
    Without any of these there is one process, which joins none. In both cases simulated devices
    get `jaxlm.distributed.xla_flags`, and CPUs `jaxlm.distributed.memory`.
    Raises `UserError` for incomplete arguments.
    """
    order_simulated()
    keep_freed_memory()
    coordinator = coordinator or os.environ.get("JAXLM_COORDINATOR")
    if num_processes is None:
        num_processes = _from_environment("JAXLM_NUM_PROCESSES")
    if process_id is None:
        process_id = _from_environment("JAXLM_PROCESS_ID")
    given = (coordinator, num_processes, process_id)
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise UserError(
                "processes: --coordinator, --num-processes and --process-id go together; "
                "give all three or none"
            )
        if process_id not in range(num_processes or 0):
            raise UserError(
                f"processes: --process-id {process_id} is not one of {num_processes} processes; "
                f"number them from 0"
            )
        if num_processes != 1:
            _join(coordinator, num_processes, process_id)
    elif _on_cluster():
        _join()


def _join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    platforms: str = jax.config.jax_platforms or ""  # type: ignore[attr-defined]
    if platforms.split(",")[0] == "cpu":
        order_collectives()
    jax.distributed.initialize(
        coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
    )
    from jax._src import distributed  # jax has no public name for the store

    state = distributed.global_state
    if state.client is not None and (state.num_processes or 1) > 1:
        assert state.process_id is not None and state.num_processes is not None
        _PEERS.append(Peers(state.client, state.process_id, state.num_processes))
        _PEERS[-1].start()


@contextmanager
def failing_together() -> Iterator[None]:
    """A block in which an error ends all processes of the run, and each reports why.

    A process that is alone raises the error. One of several reports it to the others and exits
    immediately: a normal exit would wait for them, and they wait for this process.
    """
    try:
        yield
    except Exception as error:
        if not _PEERS:
            raise
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
            if isinstance(
                error, jax.errors.JaxRuntimeError
            ):  # likely the connection to a dead process
                _PEERS[-1].listen()
        if isinstance(error, UserError):
            _PEERS[-1].fail(str(error), error.code)
        else:
            _PEERS[-1].fail(f"{type(error).__name__}: {error}")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.code if isinstance(error, UserError) else 1)


def _from_environment(name: str) -> int | None:
    text = os.environ.get(name)
    if text is not None and not text.isdecimal():
        raise UserError(
            f"environment variable {name}: {text!r} is not a whole number; set or unset it"
        )
    return None if text is None else int(text)


def _on_cluster() -> bool:
    """Whether this is, or may be, one of several processes: on a TPU pod or in a Slurm job."""
    tpu_hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    slurm_tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))  # of srun; a script has none
    several = len(tpu_hosts) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in os.environ
    return several or slurm_tasks > 1 or _on_tpu_vm()


def _on_tpu_vm() -> bool:
    """Whether jax will use TPU chips that are attached to a cloud VM.

    Outside GKE no variable says whether the VM belongs to a pod. jax asks the metadata server, and
    makes a VM without a pod process 0 of 1. Without chips, the import of jax sets
    TPU_SKIP_MDS_QUERY; a user sets it to use one VM of a pod alone.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    wanted = not platforms or "tpu" in platforms.split(",")
    library = "TPU_LIBRARY_PATH" in os.environ or importlib.util.find_spec("libtpu") is not None
    return wanted and library and "TPU_SKIP_MDS_QUERY" not in os.environ
