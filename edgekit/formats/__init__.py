"""Files: checkpoints, GGUF and ONNX metadata, files embedded in an artefact, generation configs, the Hub."""
