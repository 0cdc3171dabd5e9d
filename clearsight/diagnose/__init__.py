"""From recorded numbers to findings. No training, no files."""
