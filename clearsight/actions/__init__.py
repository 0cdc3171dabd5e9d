"""One file a public call: train, evaluate, tune, compare and the rest."""
