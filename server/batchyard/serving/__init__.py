"""The inference plane: verified models behind the Open Inference Protocol (`python -m batchyard.serving`)."""
