"""Kits: the parts a model is made of, one kit per thing that can travel between layers."""
