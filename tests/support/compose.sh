#!/usr/bin/env bash
# compose.sh DIR: Docker Compose in DIR, for the bench that runs beside it: out of Debian's package of it in the release
# after this one, from the machine's own apt mirror. Its plugin is a program that runs by itself. Prints the program.
set -euo pipefail
dir=${1:?usage: compose.sh DIR}
cd "$(dirname "$0")/../.."
# shellcheck source=tests/support/packages.sh
. tests/support/packages.sh

suite=testing
program=usr/libexec/docker/cli-plugins/docker-compose
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
if [ ! -x "$dir/docker-compose" ]; then
    trap 'rm -rf "$dir/root"' EXIT
    say "fetching Docker Compose, once"
    packages_unpack "$suite" "$dir/root" docker-compose
    mv "$dir/root/$program" "$dir/docker-compose"
fi
echo "$dir/docker-compose"
