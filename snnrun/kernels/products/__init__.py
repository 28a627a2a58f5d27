"""Products of weights with spikes, which skip what is zero; `weighted` is the entry."""
