#!/bin/bash
# Reports how the run ended on this host. Processes end within a minute of each other.
cd "$(dirname "$0")" || exit 1
for _ in $(seq 90); do [ -s exit_code ] && break; sleep 1; done
[ -s exit_code ] && echo "jaxlm-exit $(cat exit_code)"
run_dir={{ run_dir }}
{% include "newest.sh" %}
step=$(newest)
echo "jaxlm-checkpoint $((10#${step:-0}))"
