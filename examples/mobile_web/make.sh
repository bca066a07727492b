#!/bin/sh
# Writes the page to ./site and serves it on this machine: sh make.sh [MODEL]
set -e
edgekit export-web ${1:+-m "$1"} -o site --force
echo "open http://127.0.0.1:8000; then stop the server and open it again: it works offline"
python3 -m http.server --bind 127.0.0.1 --directory site 8000
