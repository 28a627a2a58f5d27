"""Feedback nets at their equilibrium: simulated by spikes, and differentiated implicitly."""
