"""Runtime plugins, installed as `edgekit.runtimes`: one file for each backend, named as `--runtime` takes it."""
