"""One backend, one file; the file name is what `--runtime` takes. Installed as `edgekit.runtimes`."""
