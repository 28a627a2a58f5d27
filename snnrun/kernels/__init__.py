"""What neurons, kits and methods leave to compiled code, one folder for what belongs together.

The modules here are single sweeps over memory, each named for what it computes.
"""
