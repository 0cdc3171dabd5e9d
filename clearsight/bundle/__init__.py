"""The model file, and how it predicts, pictures and files; needs neither training nor PyTorch for a dense net."""
