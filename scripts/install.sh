#!/bin/sh
# Make a virtual environment from requirements.lock and put the project into it, editable.
# Usage: scripts/install.sh FOLDER [PYTHON]
set -eu

venv=$1
python=${2:-python3}
start=$(date +%s)

if uv --version >/dev/null 2>&1; then
    uv=uv
else
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet uv
    uv=$venv/bin/uv
fi
[ -x "$venv/bin/python" ] || "$uv" venv --quiet --python ">=3.11" "$venv"
"$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "flowgrpo needs Python 3.11 or newer; $venv has $("$venv/bin/python" --version). Try: make PYTHON=python3.11" >&2
    exit 2
}
"$uv" pip install --quiet --python "$venv/bin/python" --requirement requirements.lock
"$uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable .
echo "installed into $venv in $(($(date +%s) - start)) s"
