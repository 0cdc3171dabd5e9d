"""Architectures and initialisers: what a network is, apart from how it is trained."""
