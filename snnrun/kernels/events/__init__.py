"""Event-driven layers, which keep and exchange index lists of events.

`stack` is the entry for fully connected nets, `active_conv` for single convolutions.
"""
