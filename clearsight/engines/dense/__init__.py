"""The dense network from scratch: the textbook in NumPy and the same mathematics compiled."""
