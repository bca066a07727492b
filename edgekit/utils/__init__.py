"""Helpers that know nothing of models: files, texts, the plugin registry, progress, tables, the machine."""
