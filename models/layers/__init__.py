"""Layers that networks share: linear maps, norms, non-linearities, radial functions."""
