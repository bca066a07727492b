"""Ways to damage an ONNX file, for both graphs. Needs the package `onnx`."""

import dataclasses
import json

import onnx

from edgekit.formats import embedded


def damaged(path, out, change):
    """A copy of a file; `change` is called with its ModelProto."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, out)
    return out


def rename_input(old, new):
    def change(model):
        for value in model.graph.input:
            value.name = new if value.name == old else value.name
        for node in model.graph.node:
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new

    return change


def drop_output(model):
    del model.graph.output[-1]


def with_config(config, **changes):
    """Replace the embedded config.json, with the right sha256."""

    def change(model):
        data = json.dumps(dataclasses.replace(config, **changes).to_dict()).encode()
        texts, blobs = embedded.pack({"config.json": data}, source_sha256="", quant="")
        values = texts | {key: embedded.to_text(blob) for key, blob in blobs.items()}
        for prop in model.metadata_props:
            if prop.key.startswith("edgekit.file.config.json"):
                prop.value = values[prop.key]

    return change
