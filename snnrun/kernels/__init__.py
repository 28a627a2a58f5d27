"""Fused multi-step kernels behind the neurons."""
