"""Formats: what a source is, told by its content with the standard library alone; nothing of it is loaded here."""
