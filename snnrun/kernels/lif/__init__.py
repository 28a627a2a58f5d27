"""LIF layers over many steps at once, on each kind of device; `multistep` is the entry."""
