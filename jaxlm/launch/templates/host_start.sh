#!/bin/bash
# Starts the run on this host, unless it is running.
cd "$(dirname "$0")" || exit 1
if [ -f pid ] && kill -0 "$(cat pid)" 2>/dev/null; then echo "already running"; exit 0; fi
rm -f exit_code
setsid nohup bash run.sh >> log.txt 2>&1 < /dev/null &
echo $! > pid
