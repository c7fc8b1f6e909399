#!/usr/bin/env bash
# Prints the path of a Python interpreter that has the packages of requirements.txt, or of another list beside this
# script: `venv.sh rapidfuzz.txt`.
# Builds it on first use, in the user's cache folder, keyed by the content of the list and the Python version,
# so a clean clone builds nothing that has not changed. Several at once are fine: one builds, the others wait.
set -euo pipefail
requirements=$(cd "$(dirname "$0")" && pwd)/${1:-requirements.txt}

fail() { echo "venv.sh: $1" >&2; exit 1; }
[ -f "$requirements" ] || fail "there is no $requirements"
command -v python3 >/dev/null || fail "python3 is missing: apt-get install python3 python3-venv"
version=$(python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3] if sys.version_info >= (3, 10) else "")')
[ -n "$version" ] || fail "the mcp package needs Python 3.10 or newer; this is $(python3 --version)"
python3 -c 'import ensurepip, venv' 2>/dev/null || fail "Python's venv module is missing: apt-get install python3-venv"

key=$( (echo "$version"; cat "$requirements") | sha256sum | cut -c1-16)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/mcpscale/python/$key
mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9
if [ ! -e "$folder/complete" ]; then
  rm -rf "$folder"
  python3 -m venv "$folder" >&2
  "$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$requirements" >&2 ||
    fail "installing the packages of $requirements failed; is there a package index within reach?"
  "$folder/bin/pip" check >&2 || fail "the packages of $requirements do not fit together"
  touch "$folder/complete"
fi
echo "$folder/bin/python"
