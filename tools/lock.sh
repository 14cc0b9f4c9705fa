#!/usr/bin/env bash
# Writes requirements.lock: the newest packages that pyproject.toml allows, with torch held at the version below.
# Run it with Python 3.11 on Linux; `make lock` does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TORCH=2.13.0
readonly PYTHON=${PYTHON:-python3.11}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

# The constraint keeps every later package from replacing torch; it also holds for the builds that pip starts.
echo "torch==$TORCH" >"$folder/constraints.txt"
export PIP_CONSTRAINT=$folder/constraints.txt
pip install --quiet "torch==$TORCH"
# The build backend is locked too, so that installing the project itself needs no network.
pip install --quiet $("$folder/venv/bin/python" - <<'PYTHON'
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))
wanted = [
    *project["build-system"]["requires"],
    *project["project"]["dependencies"],
    *project["project"]["optional-dependencies"]["dev"],
]
print(*(name.replace(" ", "") for name in wanted))
PYTHON
)

{
  echo "# Exact versions of everything that Tunesmith and its development need. Made by \`make lock\`: do not edit."
  echo "# Python 3.11 on Linux, the same versions serve 3.12 and 3.13. torch without a suffix: pip takes the build"
  echo "# that your package index offers; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu gives the small one."
  pip freeze --all | grep -v '^pip==' | sed 's/+cpu$//'
} >"$folder/requirements.lock"
mv "$folder/requirements.lock" requirements.lock
echo "requirements.lock: $(grep -c '==' requirements.lock) packages"
