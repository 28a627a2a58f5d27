"""Meters: spikes, operations, memory, latency, health."""
