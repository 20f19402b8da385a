"""Attention over all atoms of a graph through global moments, at linear cost."""
