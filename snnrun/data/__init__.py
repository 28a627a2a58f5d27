"""Datasets: sources, encodings and the resident batcher."""
