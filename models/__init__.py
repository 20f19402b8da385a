"""Equivariant attention networks; this package knows nothing of files, data sets or training."""
