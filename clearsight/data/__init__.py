"""From files to a sound `Dataset`, its split, and the preprocessing fitted on its training rows."""
