"""What a conversion lost: an artefact compared with its source, tensor by tensor and token by token."""
