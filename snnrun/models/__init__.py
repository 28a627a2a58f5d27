"""Topologies, written once against a kit."""
