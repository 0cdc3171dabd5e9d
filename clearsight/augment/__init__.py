"""Pictures to pictures, for training only: transforms, presets that follow the data, the same result on every device."""
