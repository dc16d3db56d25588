#!/bin/bash
{% for option in options %}
#SBATCH {{ option | line }}
{% endfor %}

{% for name, value in env.items() %}
export {{ name | line }}={{ value }}
{% endfor %}
{% for text in setup %}
{{ text | code }}
{% endfor %}
run_dir={{ run_dir }}
state={{ stage }}
{% include "newest.sh" %}

rm -f "$state/outcome"
# not --kill-on-bad-exit: the processes end each other, each with its own exit code
srun --kill-on-bad-exit=0 {{ python }} -u -m jaxlm train {{ config }} &
step=$!
stopped=no
# srun passes it on to all tasks, which save; `wait` returns at a signal, so wait again
trap 'stopped=yes; kill -TERM $step' TERM
wait $step; code=$?
[ $stopped = yes ] && { wait $step; code=$?; }

case $code in {{ final | join("|") | code }}) again=no ;; *) again=yes ;; esac
step_now=$(newest); step_now=$((10#${step_now:-0}))
if [ $again = yes ]; then
    read -r left best 2>/dev/null < "$state/restarts" || { left={{ max_restarts }}; best=0; }
    [ "$step_now" -gt "$best" ] && left={{ max_restarts }}
    # a stop that saved is not a failure and is not counted
    [ $code != {{ interrupted }} ] && left=$((left - 1))
    if [ $left -ge 0 ]; then
        echo "$left $step_now" > "$state/restarts"
        echo "jaxlm launch: exit code $code; back into the queue, from checkpoint $step_now"
        scontrol requeue "$SLURM_JOB_ID" && exit $code
    fi
fi
rm -f "$state/restarts"
printf 'jaxlm-exit %s\njaxlm-checkpoint %s\n' "$code" "$step_now" > "$state/outcome"
exit $code
