# edgekit's server, for amd64, arm64 and arm/v7. It opens GGUF files; the bundled model is inside.
#
#     docker build -t edgekit .
#     docker run -p 8000:8000 -e EDGEKIT_API_KEY=something-long edgekit
#     docker run -p 8000:8000 -e EDGEKIT_API_KEY=something-long -v "$PWD:/files:ro" edgekit serve -m /files/FILE.gguf --host 0.0.0.0
#
# The image has Debian's Python and numpy, which needs no OpenBLAS there, and no shell: docs/devices.md has its parts.
FROM debian:trixie-slim AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3-numpy python3-venv python3-yaml \
 && rm -rf /var/lib/apt/lists/*

# A wheel of this machine, or the name on PyPI. The bundled model becomes a GGUF here.
ARG EDGEKIT=edgekit-lm
RUN python3 -m venv --system-site-packages /build \
 && /build/bin/pip install --no-cache-dir --only-binary=:all: "${EDGEKIT}[serve,gguf]" \
 && mkdir -p /image/models /image/tmp /image/usr/lib/python3/dist-packages && chmod 1777 /image/tmp \
 && /build/bin/edgekit convert --to gguf --quant q8_0 -o /image/models/story-7m.gguf

# What runs: files of Debian's packages without documentation, tests and character sets, then the Python packages.
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN dpkg-query -W -f '${Package}\n' \
  | grep -xE 'base-files|libc6|zlib1g|(lib)?python3(\.13)?-(minimal|stdlib)|python3-numpy|lib(blas3|lapack3|gfortran5|quadmath0|stdc..6|gcc-s1|ssl3t64|zstd1|ffi8|expat1|bz2-1.0|lzma5|uuid1)' \
  | xargs dpkg -L | sort -u \
  | grep -vE '/(gconv|doc|man|locale|i18n|lintian|tests|f2py|include|ensurepip|pydoc_data)(/|$)' \
  | tar -c --no-recursion -T - | tar -x -C /image \
 && for folder in /image/usr/lib/*-linux-gnu*; do ln -s blas/libblas.so.3 lapack/liblapack.so.3 "$folder"; done
WORKDIR /build/lib/python3.13/site-packages
RUN cp -r edgekit edgekit_lm-*.dist-info anyio click h11 idna jinja2 markupsafe platformdirs prometheus_client starlette \
    typing_extensions.py uvicorn /image/usr/lib/python3/dist-packages \
 && rm -r /image/usr/lib/python3/dist-packages/edgekit/bundled/story-7m \
 && find /image -name __pycache__ -prune -exec rm -r {} +

FROM scratch
COPY --from=build /image /
ENV EDGEKIT_CACHE=/cache LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
USER 65534:65534
EXPOSE 8000
HEALTHCHECK CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["python3", "-m", "edgekit"]
CMD ["serve", "-m", "/models/story-7m.gguf", "--host", "0.0.0.0"]
