{% if not tpu %}
{# the hosts of a TPU pod find each other #}
export JAXLM_COORDINATOR="$(head -n 1 <<< "$SKYPILOT_NODE_IPS"):{{ port }}"
export JAXLM_NUM_PROCESSES="$SKYPILOT_NUM_NODES"
export JAXLM_PROCESS_ID="$SKYPILOT_NODE_RANK"
{% endif %}
run_dir={{ run_dir }}
{% include "newest.sh" %}

trap : TERM
code=0
~/jaxlm-venv/bin/python -u -m jaxlm train {{ config | code }} || code=$?
case $code in {{ final | join("|") | code }}) exit $code ;; esac
state="$run_dir/restarts/${SKYPILOT_TASK_ID:-job}.${SKYPILOT_NODE_RANK:-0}"
step_now=$(newest) || true
step_now=$((10#${step_now:-0}))
read -r left best 2>/dev/null < "$state" || { left={{ max_restarts }}; best=0; }
if [ "$step_now" -gt "$best" ]; then left={{ max_restarts }}; fi
# a stop that saved is not a failure and is not counted
if [ $code != {{ interrupted }} ]; then left=$((left - 1)); fi
if [ $left -lt 0 ]; then
    echo "jaxlm launch: exit code $code, and no newer checkpoint in {{ max_restarts }} restarts"
    exit $code
fi
mkdir -p -- "$run_dir/restarts" && echo "$left $step_now" > "$state"
echo "jaxlm launch: exit code $code; SkyPilot starts again, from checkpoint $step_now"
exit {{ interrupted }}
