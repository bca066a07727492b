"""What a conversion cost: an artefact compared with its source, tensor by tensor and token by token."""
