"""Training: the engine protocol, the one fit loop, schedules, history, checkpoints, progress."""
