#!/bin/sh
# edgekit on a Raspberry Pi (64-bit), in a virtual environment of its own: no torch, no transformers.
#
#     ./install.sh                          ONNX Runtime; nothing is compiled
#     ./install.sh --with llamacpp          llama.cpp, compiled here; needs a C++ compiler
#     sudo ./install.sh --service           for the systemd unit beside this file: /opt/edgekit, started at boot
#
#     --to FOLDER     where the environment goes                            [~/.local/share/edgekit, or /opt/edgekit]
#     --from SOURCE   a checkout, a wheel or `edgekit-lm`        [the checkout that this file is in, else `edgekit-lm`]
#
# Run it again to update: what is there is kept. pip's own variables (PIP_INDEX_URL, PIP_FIND_LINKS, ...) hold.
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
        --with | --to | --from) [ $# -ge 2 ] || { say "$1 wants a value (--help)" >&2; exit 2; } ;;
        *) say "unknown argument '$1' (--help)" >&2; exit 2 ;;
    esac
    case $1 in --with) with=$2 ;; --to) to=$2 ;; --from) from=$2 ;; esac
    shift 2
done

case $with in
    onnx) extras=onnx ;;
    llamacpp) extras=llamacpp,gguf ;; # gguf writes the file that llama.cpp opens: plain Python and numpy
    *) say "--with $with: choose onnx or llamacpp" >&2; exit 2 ;;
esac
if [ $service = yes ]; then
    [ "$(id -u)" = 0 ] || fail "--service writes to /opt and /etc: run it with sudo"
    [ -d /run/systemd/system ] || fail "--service: this system does not run systemd"
    [ -z "$to" ] || fail "--service goes to /opt/edgekit, where the unit looks for it: leave out --to"
    to=/opt/edgekit extras=$extras,serve
    umask 022 # the service runs as a user of its own
fi
to=${to:-${XDG_DATA_HOME:-$HOME/.local/share}/edgekit}
if [ -z "$from" ]; then
    if [ -f "$here/../../pyproject.toml" ]; then from=$(CDPATH='' cd -- "$here/../.." && pwd); else from=edgekit-lm; fi
fi

# What would fail later, and less clearly. A 64-bit kernel often runs under a 32-bit system, which has no wheels.
[ "$(getconf LONG_BIT)" = 64 ] || fail "this system is 32-bit: install the 64-bit Raspberry Pi OS"
command -v python3 >/dev/null || fail "python3 is missing: sudo apt install python3 python3-venv"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$(python3 --version) is too old: edgekit needs 3.11, which Raspberry Pi OS has since bookworm"
python3 -c 'import ensurepip, venv' 2>/dev/null || fail "Python's venv is missing: sudo apt install python3-venv"
if [ "$with" = llamacpp ] && ! command -v c++ >/dev/null; then
    fail "llama.cpp is compiled here and needs a C++ compiler: sudo apt install g++"
fi

if [ -x "$to/bin/python" ]; then
    say "updating $to"
else
    say "making $to"
    python3 -m venv "$to"
fi
if [ "$with" = llamacpp ]; then say "compiling llama.cpp: this takes a while"; fi
"$to/bin/python" -m pip install --disable-pip-version-check --quiet --upgrade "${from}[$extras]"
case $from in # pip takes a wheel of the same version for the same wheel
    *.whl) "$to/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --force-reinstall "$from" ;;
esac

# The promise of this example, kept: an extra that brought PyTorch would fill a memory card.
"$to/bin/python" - <<'END' || fail "torch or transformers came along: that is a bug of edgekit's"
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
