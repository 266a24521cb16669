#!/usr/bin/env bash
# Creates a virtual environment from requirements.lock and installs this project into it, editable.
# usage: PYTHON=python3 tools/create_venv.sh VENV
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "Batchyard needs Python 3.11 or newer; $python is $("$python" --version). Say PYTHON=/path/to/python3.11." >&2; exit 1; }
# Debian splits venv into a package of its own.
"$python" -c 'import ensurepip' 2>/dev/null || tools/install_system_packages.sh python3-venv
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "Installing into $venv (the first time takes a minute or two) ..."
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install "$(grep -E '^torch==' requirements.lock)"
"${pip[@]}" install -r requirements.lock
"${pip[@]}" install --no-deps --no-build-isolation --editable .
