"""Searching for settings, cross-validating them and comparing them, over many runs on many cores."""
