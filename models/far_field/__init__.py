"""Attention over all atoms of a graph, and charges that act at any distance."""
