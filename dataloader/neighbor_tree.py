"""Neighbours by a k-d tree over atoms and their images; cost does not grow with empty space."""

from __future__ import annotations

import numpy as np

from farfield.dataloader.geometry_checks import cell_heights


def find_by_tree(
    positions: np.ndarray, cutoff: float, cell: np.ndarray, periodic: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """src, dst (edges,) and shift (edges, 3), int64, in any order: all pairs with

        |x_dst - x_src + shift @ cell| < cutoff,

    an atom and its own images included, itself not. positions (atoms, 3) anywhere; cell (3, 3);
    periodic (3,) bool. Cost: N log N + edges, times the images within reach.
    """
    from scipy.spatial import KDTree

    # images that can reach some atom: those of atoms apart by the spread along each direction
    height = cell_heights(cell, periodic)
    repeating = np.where(periodic[:, None], cell, 0.0)
    along = positions @ np.linalg.pinv(repeating) if periodic.any() else np.zeros_like(positions)
    reach = np.floor(cutoff / height + np.ptp(along, axis=0)).astype(int) + periodic
    ranges = [np.arange(-most, most + 1) for most in reach]
    shifts = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)

    # receivers are shifted, (images, atoms, 3)
    images = positions + (shifts @ repeating)[:, None]
    tree, count = KDTree(positions), len(positions)
    pairs = tree.sparse_distance_matrix(
        KDTree(images.reshape(-1, 3)), cutoff, output_type="ndarray"
    )
    image, dst = np.divmod(pairs["j"], count)
    src, shift = pairs["i"].astype(np.int64), shifts[image]

    # the tree takes the cutoff itself as near enough, and an atom as its own neighbour
    other = (src != dst) | shift.any(1)
    kept = other & (pairs["v"] < cutoff)
    return src[kept], dst[kept].astype(np.int64), shift[kept]
