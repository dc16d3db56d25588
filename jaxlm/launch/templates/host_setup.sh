#!/bin/bash
# Prepares this host.
set -euo pipefail
cd "$(dirname "$0")"
# The images of TPU VMs have Python 3.10, which is too old: uv brings its own.
export PATH="$HOME/.local/bin:$PATH"
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
[ -x "$HOME/jaxlm-venv/bin/python" ] || uv venv --quiet --python 3.12 "$HOME/jaxlm-venv"
{% if archive is not none %}
rm -rf source && mkdir source && tar -xzf {{ archive }} -C source
{% endif %}
uv pip install --quiet --python "$HOME/jaxlm-venv" {{ requirement }}
{% if bucket is not none %}
if ! mountpoint -q {{ mount }}; then
    if ! command -v gcsfuse >/dev/null; then
        key=/usr/share/keyrings/cloud.google.asc
        repo=gcsfuse-$(lsb_release -cs)
        site=https://packages.cloud.google.com/apt
        curl -sSf $site/doc/apt-key.gpg | sudo tee $key >/dev/null
        echo "deb [signed-by=$key] $site $repo main" |
            sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
        sudo apt-get -qq update && sudo apt-get -qq install -y gcsfuse
    fi
    sudo mkdir -p {{ mount }} && sudo chown "$(id -u)" {{ mount }}
    # gcsfuse renames a folder by renaming each object in it, up to a limit; with a hierarchical
    # namespace it is one operation
    gcsfuse --implicit-dirs --rename-dir-limit=100000 {{ bucket }} {{ mount }}
fi
{% endif %}
