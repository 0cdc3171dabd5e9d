"""From a RunConfig to a trained model in memory."""
