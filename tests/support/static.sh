#!/usr/bin/env bash
# tests/support/static.sh FOLDER: a static bottle for the sidecars of the Docker tests, with the switches that only tests
# have; prints its path. It shares all but its own code with the static release that tests/static builds.
set -euo pipefail
folder=$1
triple=x86_64-unknown-linux-gnu
# --target, even of the machine itself: without it the flag would reach build scripts and macros, and break them.
# On all processors: two units, as in the release, take much longer to compile and gain tests nothing.
RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$triple" --features testing \
    --bin bottle --config 'profile.release.package.bottle.codegen-units=16' \
    --config 'profile.release.package.bottle.opt-level=1' >&2
mkdir -p "$folder"
# The release's own place is not this program's: tests/static puts there what users get. A copy and not the file itself:
# cargo's is a link to another of its own, and on a second run both would be one file. Replaced in one step, since
# sidecars may run from it.
built=${CARGO_TARGET_DIR:-target}/$triple/release/bottle
install -m 755 "$built" "$folder/bottle.new"
mv -f "$folder/bottle.new" "$folder/bottle"
rm -f "$built"
realpath "$folder/bottle"
