#!/usr/bin/env bash
# images.sh [DIR]: small images without a registry, on the engine that `docker` speaks to:
#   bottle-test-busybox:1   busybox, with root and node (uid 1000)
#   bottle-test-rootonly:1  the same without node
#   bottle-test-user:1      the same as busybox, as USER node
# and in DIR (default: test-images in cargo's target folder) as files:
#   busybox.tar             bottle-test-busybox:1 by `docker save`
#   busybox-root/           its root folder
# Prints the name of each image that was not there before, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/support/packages.sh
. tests/support/packages.sh

dir=${1:-${CARGO_TARGET_DIR:-target}/test-images}

static_busybox() { have busybox && ! ldd "$(command -v busybox)" >/dev/null 2>&1; }
static_busybox || packages_add busybox-static || die "the test images need a static busybox"
busybox=$(command -v busybox)

# What the images are made of: with another recipe or another busybox they are made again.
recipe=$(cat "$0" "$busybox" | sha256sum | cut -c1-16)

# root DIR: the root folder, with node.
root() {
    mkdir -p "$1"/{bin,dev,etc,home/node,proc,root,run,sys,tmp,usr,var/tmp}
    ln -s bin "$1/sbin"
    ln -s ../bin "$1/usr/bin"
    ln -s ../bin "$1/usr/sbin"
    cp "$busybox" "$1/bin/busybox"
    "$busybox" --list | while read -r applet; do
        [ "$applet" = busybox ] || ln -s busybox "$1/bin/$applet"
    done
    printf '%s\n' root:x:0:0:root:/root:/bin/sh node:x:1000:1000:node:/home/node:/bin/sh >"$1/etc/passwd"
    printf '%s\n' root:x:0: node:x:1000: >"$1/etc/group"
    chmod -R u=rwX,go=rX "$1"
    chmod 700 "$1/root"
    chmod 1777 "$1/tmp" "$1/var/tmp"
}

# pack ROOT TAR: by number, so that it needs no root, and to the same bytes each time.
pack() {
    local same=(--sort=name --mtime=@0 --numeric-owner --format=gnu -C "$1")
    tar "${same[@]}" --owner=0 --group=0 --exclude=./home/node -cf "$2" .
    [ ! -d "$1/home/node" ] || tar "${same[@]}" --owner=1000 --group=1000 -rf "$2" ./home/node
}

# image NAME TAR [CHANGE…]: imports it, unless it is there and of this recipe.
image() {
    local name=$1 tar=$2 old
    shift 2
    old=$(docker image inspect -f '{{index .Config.Labels "io.bottle.test.recipe"}}' "$name" 2>/dev/null || true)
    [ "$old" != "$recipe" ] || return 0
    docker import "${@/#/--change=}" --change="LABEL io.bottle.test.recipe=$recipe" "$tar" "$name" >/dev/null
    [ -n "$old" ] || echo "$name"
}

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
if [ "$(cat "$dir/recipe" 2>/dev/null)" != "$recipe" ]; then
    rm -rf "$dir"/{busybox-root,busybox.tar,recipe,layer.tar,layer-rootonly.tar}
    root "$dir/busybox-root"
    pack "$dir/busybox-root" "$dir/layer.tar"
    # The folder itself can carry node's ownership only where we may give it.
    [ "$(id -u)" -ne 0 ] || chown -R 1000:1000 "$dir/busybox-root/home/node"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    cp -a "$dir/busybox-root/." "$scratch"
    rm -rf "$scratch/home/node"
    sed -i /node/d "$scratch/etc/passwd" "$scratch/etc/group"
    pack "$scratch" "$dir/layer-rootonly.tar"
fi

image bottle-test-busybox:1 "$dir/layer.tar"
image bottle-test-rootonly:1 "$dir/layer-rootonly.tar"
image bottle-test-user:1 "$dir/layer.tar" 'USER node'
[ -f "$dir/recipe" ] || docker save -o "$dir/busybox.tar" bottle-test-busybox:1
echo "$recipe" >"$dir/recipe" # last: it vouches for the rest
