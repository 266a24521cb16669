"""What can run a network: one file for each engine, and the measurements by which one of them is chosen.

The package imports no engine's library; `catalogue` imports an engine's module when the engine is opened.
"""
