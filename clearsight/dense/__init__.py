"""The dense engine, written from scratch: `reference` is the textbook, `kernel` the same mathematics compiled."""
