"""One target, one file; the file name is what `--to` takes. Installed as `edgekit.converters`."""
