"""The training engine: job spec, events, the loop, evaluation and publishing.

Import the module that you need: `spec` and `events` are plain dataclasses that load without torch.
"""
