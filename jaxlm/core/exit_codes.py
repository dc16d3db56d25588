"""The exit codes of a run, for people, schedulers and launchers.

    if code in FINAL: ...     # the same command would end the same way: the user must fix something

The numbers from 64 on are those of BSD's sysexits where one fits. 1 is also Python's own code of a
crash, which ends with a traceback. Any other code, or a signal, is a crash as well. Nothing is
imported here.
"""

from __future__ import annotations

DONE = 0
MISTAKE = 2  # a mistake in the command or the config
NOT_FINITE = 65  # EX_DATAERR: the loss was not finite for too many steps in a row
LOST = 69  # EX_UNAVAILABLE: another process of the run ended or sends no heartbeat
HUNG = 70  # EX_SOFTWARE: no step ended in `train.hang_timeout` seconds
SAVE_FAILED = 74  # EX_IOERR: the last checkpoint could not be written
INTERRUPTED = 75  # EX_TEMPFAIL: stopped by a signal and saved; the same command continues
CTRL_C = 130  # 128 + SIGINT, as in shells: there was nothing to save yet

FINAL = frozenset({DONE, MISTAKE, NOT_FINITE, SAVE_FAILED, CTRL_C})

TABLE = f"""\
Exit codes:
  {DONE}   done
  1   a crash, with a traceback; also: `jaxlm doctor` found a problem,
      or `jaxlm plan` too little memory
  {MISTAKE}   a mistake of the user: one line says what, where and how to fix it
  {NOT_FINITE}  the loss was not finite for too many steps in a row
  {LOST}  another process of the run was lost: start all of them again
  {HUNG}  no step ended in train.hang_timeout seconds: start again; the log has the stacks
  {SAVE_FAILED}  the last checkpoint could not be written
  {INTERRUPTED}  stopped by SIGTERM, SIGINT or SIGHUP, and saved: the same command continues
  {CTRL_C} stopped by Ctrl-C before there was anything to save"""
