#!/usr/bin/env bash
# gitleaks.sh DIR: the rules of gitleaks as DIR/gitleaks.toml, out of Debian's package of it in the release after this
# one, from the machine's own apt mirror. They are not ours to ship, so they are brought for the tests. Prints the file.
set -euo pipefail
dir=${1:?usage: gitleaks.sh DIR}
cd "$(dirname "$0")/../.."
# shellcheck source=tests/support/packages.sh
. tests/support/packages.sh

suite=testing
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
rules=$dir/gitleaks.toml

if [ ! -f "$rules" ]; then
    root=$dir/root
    trap 'rm -rf "$root"' EXIT
    say "fetching the rules of gitleaks, once"
    packages_unpack "$suite" "$root" gitleaks
    # The program carries them as one text: it ends in padding, where no two empty lines stand within.
    LC_ALL=C tr '\0' '\n' <"$root/usr/bin/gitleaks" | LC_ALL=C awk '
        /^title = "gitleaks config"$/ { on = 1 }
        on && $0 == "" && last == "" { on = 0 }
        on { print; last = $0 }' >"$rules.part"
    [ "$(grep -c '^\[\[rules\]\]' "$rules.part")" -gt 100 ] || die "the package gitleaks has no rules where they were"
    mv "$rules.part" "$rules"
fi
echo "$rules"
