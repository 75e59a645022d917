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
    have apt-get || die "the rules of gitleaks come from its Debian package: this is not a Debian machine"
    own=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016  # apt's own placeholders
    mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        awk -v own="$own" '$1 == own { print $2; exit }')
    [ -n "$mirror" ] || die "apt has no source for this release: no mirror to take gitleaks from"
    # Lists and caches of its own: the machine's apt does not learn of the other release.
    apt=$dir/apt
    trap 'rm -rf "$apt"' EXIT
    mkdir -p "$apt"/{lists,cache/archives}/partial
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"
    options=(-q -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$apt/lists" -o Dir::State::Status=/dev/null -o "Dir::Cache=$apt/cache"
        -o Acquire::Languages=none -o "APT::Sandbox::User=$(id -un)")
    say "fetching the rules of gitleaks, once"
    if ! (cd "$apt" && apt-get "${options[@]}" update && apt-get "${options[@]}" download gitleaks &&
        dpkg-deb -x gitleaks_*.deb root) >"$dir/log" 2>&1; then
        tail -n 15 "$dir/log" >&2
        die "could not fetch the package gitleaks"
    fi
    # The program carries them as one text: it ends in padding, where no two empty lines stand within.
    LC_ALL=C tr '\0' '\n' <"$apt/root/usr/bin/gitleaks" | LC_ALL=C awk '
        /^title = "gitleaks config"$/ { on = 1 }
        on && $0 == "" && last == "" { on = 0 }
        on { print; last = $0 }' >"$rules.part"
    [ "$(grep -c '^\[\[rules\]\]' "$rules.part")" -gt 100 ] || die "the package gitleaks has no rules where they were"
    mv "$rules.part" "$rules"
fi
echo "$rules"
