#!/bin/sh
# Installs Ray into the user's cache, unless it is there, and prints the folder of its virtual environment.
set -eu
folder="${XDG_CACHE_HOME:-$HOME/.cache}/overnight-tests/ray-2.60.0"
if [ ! -e "$folder/made" ]; then
    python3 -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check 'ray[default]==2.60.0' >&2
    touch "$folder/made"
fi
echo "$folder"
