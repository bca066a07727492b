#!/bin/sh
# Runs edgekit-lm[onnx] on an emulated 64-bit ARM Debian and compares its tokens with this machine's.
#
#     sudo ./try_arm64.sh [WORK] [CPU]
#
#     WORK   folder for the ARM system, its packages and the results; a second run reuses them           [./arm64]
#     CPU    the processor to emulate: cortex-a72 is a Raspberry Pi 4, cortex-a76 a Raspberry Pi 5       [cortex-a72]
#
# Needs the Debian packages debootstrap and qemu-user-static. The latter makes the kernel run ARM programs through QEMU; in
# a container that must be done by hand, for the whole machine:
#     mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
#     cat /usr/lib/binfmt.d/qemu-aarch64.conf >/proc/sys/fs/binfmt_misc/register
#
# Environment: PYTHON, a Python here with edgekit-lm[onnx] [the checkout's .venv]; SUITE [bookworm]; MIRROR, a Debian mirror.
#
# Emulation shows that the wheels install, that everything runs, and which tokens result. It says nothing about speed.
set -eu

step() { printf '\n== %s\n' "$*"; }
fail() { printf 'try_arm64: %s\n' "$*" >&2; exit 1; }

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
checkout=$(CDPATH='' cd -- "$here/../.." && pwd)
work=${1:-arm64}
export QEMU_CPU="${2:-cortex-a72}"
suite=${SUITE:-bookworm}
python=${PYTHON:-$checkout/.venv/bin/python}

[ "$(id -u)" = 0 ] || fail "debootstrap makes device files and changes root: run it with sudo"
for tool in debootstrap qemu-aarch64-static; do
    command -v $tool >/dev/null || fail "$tool is missing: apt install debootstrap qemu-user-static"
done
"$python" -c 'import edgekit, onnxruntime' || fail "$python does not have edgekit-lm[onnx]: set PYTHON=..."
mkdir -p "$work/wheels"
work=$(CDPATH='' cd -- "$work" && pwd)
root=$work/root

grep -qs enabled /proc/sys/fs/binfmt_misc/qemu-aarch64 ||
    fail "the kernel does not run ARM programs through QEMU: see the comment at the top of this script"

# /proc and /sys are not mounted: they describe this machine's processor, which crashes ONNX Runtime's ARM build.
arm() {
    chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 QEMU_CPU="$QEMU_CPU" "$@"
}

step "Debian $suite for arm64 on an emulated $QEMU_CPU"
if [ ! -e "$work/system" ]; then
    rm -rf --one-file-system "$root"
    {
        debootstrap --arch=arm64 --variant=minbase --foreign --include=python3,python3-venv "$suite" "$root" \
            ${MIRROR:+"$MIRROR"} && arm /debootstrap/debootstrap --second-stage
    } >"$work/debootstrap.log" || fail "debootstrap: see $work/debootstrap.log"
    : >"$work/system"
fi
arm uname -m
arm python3 --version

step "download wheels for that system"
version=$(arm python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
rm -f "$work"/wheels/edgekit_lm-*.whl "$root"/wheels/edgekit_lm-*.whl
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps -w "$work/wheels" "$checkout"
wheel=$(find "$work/wheels" -name 'edgekit_lm-*.whl')
set --
for glibc in 2_17 2_27 2_28 2_31 2_34; do set -- "$@" --platform "manylinux_${glibc}_aarch64"; done
"$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: --implementation cp \
    --python-version "$version" "$@" --platform manylinux2014_aarch64 -d "$work/wheels" \
    -c "$checkout/constraints.txt" "${wheel}[onnx]"

step "install.sh on the ARM system"
mkdir -p "$root/wheels"
cp "$work"/wheels/*.whl "$here/install.sh" "$here/tokens.py" "$root/wheels/"
arm env PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels PIP_ROOT_USER_ACTION=ignore \
    sh /wheels/install.sh --to /opt/edgekit --from "/wheels/$(basename "$wheel")"
arm /opt/edgekit/bin/python -m pip list --disable-pip-version-check

step "convert and run the bundled model, there and here (ONNX Runtime warns that /sys is missing)"
arm /opt/edgekit/bin/python /wheels/tokens.py >"$work/arm64.jsonl"
"$python" "$here/tokens.py" >"$work/here.jsonl"
du -sh "$root"
"$python" "$here/tokens.py" "$work/here.jsonl" "$work/arm64.jsonl"
