#!/bin/bash
# Trains on this host, and keeps the exit code.
cd "$(dirname "$0")" || exit 1
{% for name, value in environment.items() %}
export {{ name | line }}={{ value }}
{% endfor %}
{% if secrets %}
. ./secrets.env
{% endif %}
"$HOME/jaxlm-venv/bin/python" -u -m jaxlm train run.yaml
echo $? > exit_code
