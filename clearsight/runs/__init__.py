"""The run directory: layout, record, events, liveness, corrections, trackers. No training."""
