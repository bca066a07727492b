"""What lies on disk: checkpoints, GGUF, files embedded in an artefact, generation configs, the Hub."""
