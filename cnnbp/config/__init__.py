"""Compose the config, and say what each of its values may be."""
