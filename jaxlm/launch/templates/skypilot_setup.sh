set -e
{% for text in setup %}
{{ text | code }}
{% endfor %}
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
export PATH="$HOME/.local/bin:$PATH"
[ -x ~/jaxlm-venv/bin/python ] || uv venv --quiet --python 3.12 ~/jaxlm-venv
uv pip install --quiet --python ~/jaxlm-venv {{ requirement }}
