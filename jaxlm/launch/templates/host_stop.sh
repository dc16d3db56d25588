#!/bin/bash
# Ends the rest of the run on this host.
cd "$(dirname "$0")" || exit 0
[ -f pid ] && kill -KILL -- "-$(cat pid)" 2>/dev/null
rm -f pid
exit 0
