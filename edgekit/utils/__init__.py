"""What every other folder may use and what knows no model: files, texts, the plugin registry, progress, tables."""
