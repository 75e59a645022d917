#!/usr/bin/env bash
# tests/support/static.sh FOLDER: a static bottle for the sidecars of the Docker tests, with the switches that only tests
# have; prints its path. It shares all but its own code with the static release that tests/static builds.
set -euo pipefail
folder=$1
triple=x86_64-unknown-linux-gnu
# --target, even of the machine itself: without it the flag would reach build scripts and macros, and break them.
RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$triple" --features testing \
    --bin bottle >&2
mkdir -p "$folder"
# The release's own place is not this program's: tests/static puts there what users get.
mv "${CARGO_TARGET_DIR:-target}/$triple/release/bottle" "$folder/bottle"
realpath "$folder/bottle"
