#!/bin/bash
# Shows the log until the run on this host ends.
cd "$(dirname "$0")" || exit 1
exec tail -n 50 -F --pid="$(cat pid)" log.txt
