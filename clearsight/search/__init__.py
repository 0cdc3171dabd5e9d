"""What tune and cross-validation share: space, strategies, loop, jobs, executors, journal."""
