"""How good a model is: metrics with their numbers of rows and intervals."""
