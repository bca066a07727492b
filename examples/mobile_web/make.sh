#!/bin/sh
# Makes the page in ./site and serves it to this machine: sh make.sh [MODEL]
set -e
edgekit export-web ${1:+-m "$1"} -o site --force
echo "open http://127.0.0.1:8000, and then once more without the server"
python3 -m http.server --bind 127.0.0.1 --directory site 8000
