"""Usual names of labels in files that ASE reads, for preprocessing and for evaluation alike.

ASE takes ``energy``, ``forces`` and ``stress`` for its own; published sets put the level of theory
in front: ``REF_energy`` (MACE), ``DFT_forces``.
"""

from __future__ import annotations

from collections.abc import Container

PREFIXES = ("", "REF_", "ref_", "DFT_", "dft_", "TRUE_", "true_")


def usual_names(quantity: str) -> list[str]:
    """Names under which a file may hold a quantity, the preferred one first.

    >>> usual_names("energy")[:2]
    ['energy', 'REF_energy']
    """
    return [prefix + quantity for prefix in PREFIXES]


def names_held(quantity: str, held: Container[str]) -> list[str]:
    """The usual names of a quantity that ``held`` contains, the preferred one first."""
    return [name for name in usual_names(quantity) if name in held]
