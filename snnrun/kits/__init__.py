"""Kits: the parts a model is made of, one kit per coordinate system that can travel between layers."""
