"""The Engine protocol and those who keep it: dense and torch; several processes."""
