"""What every room may use: durable files, progress, hashing, threads, intervals, numerics."""
