#!/usr/bin/env bash
# tools.sh DIR: package managers that Debian has not, or has too old: pnpm and yarn in DIR/node_modules/.bin, uv in DIR/bin.
# Prints the folder, or why it could not be had, and fails. All comes from registries by the machine's own settings, in
# some seconds, once, and takes 120 MB.
set -euo pipefail
dir=${1:?usage: tools.sh DIR}
cd "$(dirname "$0")/../.."
# shellcheck source=tests/support/packages.sh
. tests/support/packages.sh

uv=uv==0.13.9
node=(pnpm@9.15.9 yarn@1.22.22)

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
recipe=$(sha256sum <tests/support/tools.sh | cut -c1-16)
if [ "$(cat "$dir/recipe" 2>/dev/null)" = "$recipe" ]; then
    echo "$dir"
    exit
fi

say "fetching package managers, once"
rm -rf "$dir"
mkdir -p "$dir/bin"
without() {
    echo "$*"
    exit 1
}
packages_wheel "$dir/venv" "$uv" || without "$uv could not be fetched"
mv "$dir/venv/bin/uv" "$dir/bin/uv"
packages_need npm:npm >&2 || without "npm is missing"
# Scripts of packages are left out: neither of the two needs any.
timeout -k 10 300 npm install --prefix "$dir" --cache "$dir/cache" --ignore-scripts --no-package-lock --no-audit \
    --no-fund --no-update-notifier --loglevel=error "${node[@]}" >&2 </dev/null || without "npm could not fetch ${node[*]}"
rm -rf "$dir/venv" "$dir/cache"
echo "$recipe" >"$dir/recipe" # last: it vouches for the rest
echo "$dir"
