#!/usr/bin/env bash
# browser.sh DIR: what the test of the dashboard's page drives: Debian's Chromium, and in DIR/node_modules playwright-core
# and axe-core. Prints the folder, or why it could not be had, and fails. It takes a minute, once, and 400 MB.
set -euo pipefail
dir=${1:?usage: browser.sh DIR}
cd "$(dirname "$0")/../.."
# shellcheck source=tests/support/packages.sh
. tests/support/packages.sh

node=(playwright-core@1.56.1 axe-core@4.11.0)

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
packages_need chromium:chromium npm:npm >&2 || {
    echo "Chromium or npm is missing"
    exit 1
}
recipe=$(sha256sum <tests/support/browser.sh | cut -c1-16)
if [ "$(cat "$dir/recipe" 2>/dev/null)" != "$recipe" ]; then
    rm -rf "$dir/node_modules"
    if ! timeout -k 10 300 npm install --prefix "$dir" --cache "$dir/cache" --ignore-scripts --no-package-lock --no-audit \
        --no-fund --no-update-notifier --loglevel=error "${node[@]}" >&2 </dev/null; then
        echo "npm could not fetch ${node[*]}"
        exit 1
    fi
    rm -rf "$dir/cache"
    echo "$recipe" >"$dir/recipe" # last: it vouches for the rest
fi
echo "$dir"
