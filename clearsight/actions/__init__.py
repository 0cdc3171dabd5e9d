"""One file a public call: train, resume, evaluate, tune, compare and the rest."""
