"""The HTTP half of the truth suite: its program, its cases and its process models."""
