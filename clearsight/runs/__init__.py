"""The run directory: layout, record, corrections, trackers. No training."""
