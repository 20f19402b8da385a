"""Equivariant attention on molecules and materials with an exact far field.

The folders beside this file are relative links to the top-level folders of the repository, so that
all code has one import name, ``farfield.models``, ``farfield.train``, ..., wherever it runs.
"""
