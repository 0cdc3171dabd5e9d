"""From files to a Dataset."""
