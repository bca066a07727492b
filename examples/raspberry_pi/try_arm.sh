#!/bin/sh
# Installs a wheel of edgekit on an emulated Raspberry Pi, runs it there, and compares its results with everyone's.
#
#     sudo ./try_arm.sh arm64 edgekit_lm-VERSION-py3-none-manylinux_2_17_aarch64.whl
#     sudo ./try_arm.sh armhf edgekit_lm-VERSION-py3-none-manylinux_2_17_armv7l.whl
#
# WORK, a folder for the ARM systems [./arm]; SUITE, Debian's release [trixie]; MIRROR, a mirror; PIP_CERT, certificates.
#
# Needs Debian's packages debootstrap and qemu-user-static. The latter makes the kernel run ARM programs; in a container
# that must be done by hand, for the whole machine:
#     mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
#     cat /usr/lib/binfmt.d/qemu-aarch64.conf >/proc/sys/fs/binfmt_misc/register      # or qemu-arm.conf
#
# It takes some minutes, 0.6 GB of disk, and says nothing about speed.
set -eu

step() { printf '\n== %s\n' "$*"; }
fail() { printf 'try_arm: %s\n' "$*" >&2; exit 1; }

[ $# = 2 ] || fail "usage: try_arm.sh arm64|armhf WHEEL"
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
arch=$1 wheel=$2 work=${WORK:-arm} suite=${SUITE:-trixie}
case $arch in
    arm64) emulator=aarch64 libraries=aarch64-linux-gnu QEMU_CPU=cortex-a72 ;;
    armhf) emulator=arm libraries=arm-linux-gnueabihf QEMU_CPU=cortex-a7 ;;
    *) fail "$arch: choose arm64 or armhf" ;;
esac
[ -f "$wheel" ] || fail "there is no $wheel: python engine/tools/wheels.py dist"
[ "$(id -u)" = 0 ] || fail "it changes root: run it with sudo"
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt install debootstrap qemu-user-static"
grep -qs enabled /proc/sys/fs/binfmt_misc/qemu-$emulator ||
    fail "the kernel does not run ARM programs through QEMU: see the comment at the top of this script"

# The packages are unpacked and not configured, which would take most of the time; so Debian's alternatives are not set.
root=$work/$arch
arm() {
    chroot "$root" /usr/bin/env -i PATH=/opt/edgekit/bin:/usr/bin:/bin HOME=/root LANG=C.UTF-8 QEMU_CPU="$QEMU_CPU" \
        LD_LIBRARY_PATH=/usr/lib/$libraries/blas:/usr/lib/$libraries/lapack "$@"
}

step "Debian $suite for $arch"
if [ ! -e "$root.done" ]; then
    rm -rf --one-file-system "$root"
    mkdir -p "$work"
    debootstrap --arch="$arch" --variant=minbase --foreign --include=python3,python3-venv,python3-numpy,python3-yaml \
        "$suite" "$root" ${MIRROR:+"$MIRROR"} >"$work/$arch.log" || fail "debootstrap: see $work/$arch.log"
    for package in "$root"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
    : >"$root.done"
fi
arm uname -m

# PyPI has no numpy for armv7: Raspberry Pi OS takes it from piwheels, this script from Debian.
step "pip install"
cp /etc/resolv.conf /etc/hosts "$root/etc/"
cp "${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}" "$root/etc/ssl/certs/ca-certificates.crt"
cp "$wheel" "$here"/../golden/*.json "$here"/../golden/*.py "$root/root/"
arm python3 -m venv --clear --system-site-packages --without-pip /opt/edgekit
# Emulated, pip is slow enough without unpacking itself from its wheel, and without compiling what it installs.
python3 -m zipfile -e "$root"/usr/share/python-wheels/pip-*.whl "$root/root/pip"
arm /opt/edgekit/bin/python /root/pip/pip install --quiet --no-compile --root-user-action=ignore --only-binary=:all: \
    "/root/$(basename "$wheel")[serve,gguf]"

step "use it"
arm edgekit --version
arm edgekit run "Once upon a time" --seed 7 --max-new-tokens 40
arm python /root/check.py
arm edgekit serve --port 8765 2>"$work/$arch.serve" &
server=$!
# shellcheck disable=SC2016
arm python -c '
import json, time, urllib.request
body = json.dumps({"prompt": "Once upon a time", "max_tokens": 20, "seed": 7}).encode()
request = urllib.request.Request("http://127.0.0.1:8765/v1/completions", body, {"Content-Type": "application/json"})
for second in range(300):
    try:
        print(json.load(urllib.request.urlopen(request))["choices"][0]["text"])
        break
    except OSError:
        time.sleep(1)
'
kill $server
