#!/bin/sh
# Installs edgekit on a 64-bit Raspberry Pi, in a virtual environment, without torch or transformers.
#
#     ./install.sh                          ONNX Runtime; nothing is compiled
#     ./install.sh --with llamacpp          llama.cpp, compiled here; needs a C++ compiler
#     sudo ./install.sh --service           the systemd unit in this folder: /opt/edgekit, started at boot
#
#     --to FOLDER     folder of the environment                        [~/.local/share/edgekit, or /opt/edgekit]
#     --from SOURCE   a checkout, a wheel or `edgekit-lm`    [the checkout that this file is in, else `edgekit-lm`]
#
# Run it again to update. pip's environment variables (PIP_INDEX_URL, PIP_FIND_LINKS, ...) apply.
set -eu

say() { printf 'edgekit: %s\n' "$*"; }
fail() { printf 'edgekit: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,/^set /{ /^set /d; s/^# \{0,1\}//; p; }' "$0"; }

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
with=onnx to='' from='' service=no
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --service) service=yes; shift; continue ;;
        --with | --to | --from) [ $# -ge 2 ] || { say "$1 needs a value (--help)" >&2; exit 2; } ;;
        *) say "unknown argument '$1' (--help)" >&2; exit 2 ;;
    esac
    case $1 in --with) with=$2 ;; --to) to=$2 ;; --from) from=$2 ;; esac
    shift 2
done

case $with in
    onnx) extras=onnx ;;
    llamacpp) extras=llamacpp,gguf ;; # gguf writes the files that llama.cpp opens, in Python and numpy
    *) say "--with $with: choose onnx or llamacpp" >&2; exit 2 ;;
esac
if [ $service = yes ]; then
    [ "$(id -u)" = 0 ] || fail "--service writes to /opt and /etc: run it with sudo"
    [ -d /run/systemd/system ] || fail "--service: this system does not run systemd"
    [ -z "$to" ] || fail "--service installs in /opt/edgekit, where the unit expects it: leave out --to"
    to=/opt/edgekit extras=$extras,serve
    umask 022 # the service runs as another user
fi
to=${to:-${XDG_DATA_HOME:-$HOME/.local/share}/edgekit}
if [ -z "$from" ]; then
    if [ -f "$here/../../pyproject.toml" ]; then from=$(CDPATH='' cd -- "$here/../.." && pwd); else from=edgekit-lm; fi
fi

# Check what would fail later and less clearly. A 64-bit kernel often runs a 32-bit system, which has no wheels.
[ "$(getconf LONG_BIT)" = 64 ] || fail "this system is 32-bit: install the 64-bit Raspberry Pi OS"
command -v python3 >/dev/null || fail "python3 is missing: sudo apt install python3 python3-venv"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$(python3 --version) is too old: edgekit needs 3.11, which Raspberry Pi OS has from bookworm on"
python3 -c 'import ensurepip, venv' 2>/dev/null || fail "Python's venv is missing: sudo apt install python3-venv"
if [ "$with" = llamacpp ] && ! command -v c++ >/dev/null; then
    fail "llama.cpp is compiled here and needs a C++ compiler: sudo apt install g++"
fi

if [ -x "$to/bin/python" ]; then
    say "updating $to"
else
    say "creating $to"
    python3 -m venv "$to"
fi
if [ "$with" = llamacpp ]; then say "compiling llama.cpp: this takes a while"; fi
"$to/bin/python" -m pip install --disable-pip-version-check --quiet --upgrade "${from}[$extras]"
case $from in # pip would not replace a wheel of the same version
    *.whl) "$to/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --force-reinstall "$from" ;;
esac

# An extra that brings PyTorch would fill the memory card.
"$to/bin/python" - <<'END' || fail "torch or transformers was installed too: this is a bug in edgekit"
import importlib.util, sys
sys.exit(any(map(importlib.util.find_spec, ("torch", "transformers"))))
END

if [ $service = yes ]; then
    install -m 644 "$here/edgekit.service" /etc/systemd/system/edgekit.service
    if [ ! -e /etc/edgekit.conf ]; then install -m 600 "$here/edgekit.conf" /etc/edgekit.conf; fi
    systemctl daemon-reload
    systemctl enable --quiet edgekit.service
    systemctl restart edgekit.service
    say "serving; settings: /etc/edgekit.conf, log: journalctl -u edgekit"
else
    say "ready: $to/bin/edgekit run \"Once upon a time\""
fi
