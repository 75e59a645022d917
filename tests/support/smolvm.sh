#!/usr/bin/env bash
# smolvm.sh [DIR]: the real smolvm of the Python wheel `smolmachines`, in DIR (default: test-smolvm in cargo's target
# folder), ready to boot machines where the hardware can. Prints the path of the program.
#   DIR/smolvm   a wrapper that names the libraries and the agent's root, and runs DIR/bin/smolvm
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/support/packages.sh
. tests/support/packages.sh

wheel=smolmachines==1.32.2
dir=${1:-${CARGO_TARGET_DIR:-target}/test-smolvm}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
recipe="$wheel $(sha256sum <tests/support/smolvm.sh | cut -c1-16)"
if [ "$(cat "$dir/recipe" 2>/dev/null)" = "$recipe" ]; then
    echo "$dir/smolvm"
    exit
fi

packages_need zstd:zstd || die "smolvm comes packed with zstd"
rm -rf "$dir"
mkdir -p "$dir/bin" "$dir/lib" "$dir/rootfs"
packages_wheel "$dir/venv" "$wheel" || die "smolvm comes as a Python wheel, and it could not be fetched"
smol=$(echo "$dir"/venv/lib/python3*/site-packages/smol)
# By another name the program says on every call that it is not called `smolvm`.
install -m 755 "$smol/smol-vmm" "$dir/bin/smolvm"
install -m 755 "$smol/libkrun.so" "$smol/libkrunfw.so.5" "$dir/lib"
for template in overlay storage; do
    zstd -dq --sparse "$smol/$template-template.ext4.zst" -o "$dir/lib/$template-template.ext4"
done
# As root the archive's owners would be kept: the agent's root belongs to whoever runs it.
tar --no-same-owner --zstd -C "$dir/rootfs" -xf "$smol/agent-rootfs.tar.zst"
rm -rf "$dir/venv"
cat >"$dir/smolvm" <<'W'
#!/bin/sh
# Without another process, for there are hundreds of calls. It is always named by a path.
here=${0%/*}
SMOLVM_LIB_DIR=$here/lib SMOLVM_AGENT_ROOTFS=$here/rootfs exec "$here/bin/smolvm" "$@"
W
chmod 755 "$dir/smolvm"
echo "$recipe" >"$dir/recipe" # last: it vouches for the rest
echo "$dir/smolvm"
