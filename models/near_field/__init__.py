"""Attention over the edges inside a cutoff."""
