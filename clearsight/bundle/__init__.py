"""The model file, and how it predicts; needs neither training nor PyTorch for a dense net."""
