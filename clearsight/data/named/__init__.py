"""Data sets known by name: fetched with checksums, or made."""
