#!/usr/bin/env bash
# Makes .venv with the exact packages of requirements.lock and this project, one line per stage.
# Does nothing (in milliseconds) when .venv already matches the lock, the project file, the Python and this folder.
# VENV=... names another folder, EXTRA=... a file of further packages, which may not change those of the lock.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly LOCK=requirements.lock
readonly VENV=${VENV:-.venv}
readonly EXTRA=${EXTRA:-}
readonly STAMP=$VENV/installed
readonly LOG=$VENV/install.log

fail() {
  printf 'error: %s\n' "$1" >&2
  printf '  fix: %s\n' "$2" >&2
  exit 4
}

start() {
  SECONDS=0
  printf '%s ... ' "$1"
}

finish() { printf '%d s\n' "$SECONDS"; }

# Runs a stage's command; its output goes to the log, of which the end is shown if it fails.
logged() {
  "$@" >>"$LOG" 2>&1 </dev/null && return
  printf 'failed after %d s\n' "$SECONDS"
  printf -- '--- the end of %s ---\n' "$LOG" >&2
  tail -n 20 "$LOG" >&2
  fail "the installation did not finish; the whole log is in $LOG" "see the lines above, then run make again"
}

pip_install() { logged "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@"; }

# "3.11" of a Python that runs and is in the supported range; nothing otherwise (an old one, a dead pyenv shim).
supported_version() {
  "$1" -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) and print(f"{v[0]}.{v[1]}")' 2>/dev/null || true
}

choose_python() {
  local candidate found
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if [[ -n "$(supported_version "$candidate")" ]]; then
      command -v "$candidate"
      return
    fi
  done
  candidate=${PYTHON:-python3}
  found=$("$candidate" --version 2>/dev/null || echo "not there, or does not run")
  fail "Tunesmith needs Python 3.11, 3.12 or 3.13; $candidate is ${found#Python }" \
    "apt-get install python3.11 python3.11-venv, or name the one to use: make PYTHON=/path/to/python3.12"
}

# Debian keeps venv and ensurepip in a package of their own.
ensure_venv_module() {
  local python=$1 package
  "$python" -c 'import ensurepip, venv' 2>/dev/null && return
  package="python$(supported_version "$python")-venv"
  if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
    fail "$python cannot make virtual environments: the package $package is missing" \
      "sudo apt-get update && sudo apt-get install -y $package"
  fi
  start "apt-get install $package"
  logged apt-get update
  logged env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$package"
  finish
}

# What the packages depend on: the lock, the extra ones, the Python, and this folder (a venv holds absolute paths).
packages_key() {
  printf '%s %s %s' "$(cat "$LOCK" ${EXTRA:+"$EXTRA"} | sha256sum | cut -c1-16)" "$("$VENV/bin/python" --version 2>&1)" "$PWD"
}

project_key() { sha256sum <pyproject.toml | cut -c1-16; }

packages_ready() {
  [[ -x $VENV/bin/python && -f "$STAMP" ]] || return 1
  [[ -z "${PYTHON:-}" || "$("$PYTHON" --version 2>&1)" == "$("$VENV/bin/python" --version 2>&1)" ]] || return 1
  [[ "$(sed -n 1p "$STAMP")" == "$(packages_key)" ]]
}

install_packages() {
  local python
  python=$(choose_python)
  rm -rf "$VENV"
  mkdir "$VENV"
  ensure_venv_module "$python"
  start "new $VENV with $("$python" --version) ($python)"
  logged "$python" -m venv "$VENV"
  finish
  start "$(grep -c '==' "$LOCK") packages of $LOCK, minutes on a slow line (log: $LOG)"
  # pip would compile every file, on one core, which doubles its time; Python compiles what it imports. Where it may not
  # write what it compiled, everything is compiled now, on every core. What cannot be compiled cannot be imported either.
  pip_install --no-compile -r "$LOCK"
  [[ -z "$EXTRA" ]] || pip_install --no-compile -r "$EXTRA" -c "$LOCK"
  if [[ -n "${PYTHONDONTWRITEBYTECODE:-}" ]]; then
    "$VENV/bin/python" -m compileall -qq -j 0 "$VENV/lib" >>"$LOG" 2>&1 || true
  fi
  finish
}

main() {
  packages_ready && [[ "$(sed -n 2p "$STAMP")" == "$(project_key)" ]] && return
  packages_ready || install_packages
  rm -f "$STAMP"
  start "tunesmith"
  pip_install --no-deps --no-build-isolation -e .
  finish
  printf '%s\n' "$(packages_key)" "$(project_key)" >"$STAMP"
}

main
