"""The published model on disk: manifest, writing, reading and verifying."""
