"""Metrics of generated and relaxed molecules: one table, all rules named.

    from farfield.simulate.molecule_metrics import MetricOptions, molecule_table

    table = molecule_table(sampled, training=training_set)
    print(table["stable_atoms"], table["valid"], table["unique"], table["novel"])

| name | meaning |
|---|---|
| stable_atoms | share of atoms whose orders of bonds add up to an allowed valence |
| stable_molecules | share of molecules whose atoms are all stable |
| connected | share of molecules whose atoms all hang together by bonds |
| ..._without_h | the same asked of the atoms other than hydrogen |
| valid | share of molecules that are stable and connected, hydrogens included |
| valid_rdkit | share whose valences RDKit accepts, radicals too (option ``rdkit_validity``) |
| unique | distinct molecules among the valid ones, over the number of valid ones |
| novel | share of the distinct valid molecules that the training set does not have |
| rmsd, heavy_rmsd | distance to a reference after the best superposition, up to symmetry |
| topology_kept | share of molecules with the bonded pairs of the reference |

Bonds are found by a rule of :mod:`farfield.dataloader.chemistry.bond_rules`, "edm" in published
tables. Identity is that of the bond graph, not of the geometry: canonical SMILES where RDKit is
installed, otherwise a key (:mod:`farfield.dataloader.chemistry.bond_graphs`) that two different
molecules may share, so that ``unique`` and ``novel`` are lower bounds by it; the entry
``identity`` says which was used. RMSD: :mod:`farfield.simulate.superposition`. Cost: that of
bonds and keys; with a reference most of it is the RMSD.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np

from farfield.dataloader.chemistry.bond_graphs import graph_keys, num_fragments
from farfield.dataloader.chemistry.bond_rules import BOND_RULES, RuledBonds
from farfield.dataloader.chemistry.bonds import same_pairs
from farfield.dataloader.structures import Structures
from farfield.models.choices import check_choices, check_positive
from farfield.simulate.rdkit_molecules import canonical_smiles, has_rdkit, rdkit_molecules
from farfield.simulate.shares import mean_or_nan, median_or_nan
from farfield.simulate.superposition import MOST_PERMUTATIONS, symmetric_rmsd

IDENTITIES = {
    "auto": "SMILES where RDKit is installed, else key of the bond graph",
    "smiles": "canonical SMILES by RDKit",
    "graph": "key of the bond graph, which different molecules may share",
}
METRIC_UNITS = {
    "rmsd_mean": "Angstrom",
    "rmsd_median": "Angstrom",
    "heavy_rmsd_mean": "Angstrom",
    "heavy_rmsd_median": "Angstrom",
}


@dataclasses.dataclass(frozen=True)
class MetricOptions:
    """Rules of the metrics."""

    bonds: Annotated[str, "rule by which bonds and stable atoms are found", BOND_RULES] = "edm"
    identity: Annotated[str, "what makes two molecules the same", IDENTITIES] = "auto"
    rdkit_validity: Annotated[bool, "report which molecules RDKit accepts (needs RDKit)"] = False
    most_permutations: Annotated[
        int, "symmetries of a molecule up to which its RMSD is exact, otherwise an upper bound"
    ] = MOST_PERMUTATIONS

    def __post_init__(self):
        check_choices(self, {"bonds": BOND_RULES, "identity": IDENTITIES}, "of the metrics")
        check_positive(self, ("most_permutations",), "of the metrics")


@dataclasses.dataclass
class MoleculeChecks:
    """Verdict on every molecule (structures,) bool; see the module."""

    stable: np.ndarray
    stable_without_h: np.ndarray
    connected: np.ndarray
    connected_without_h: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """(structures,) bool"""
        return self.stable & self.connected


def check_molecules(structures: Structures, bonds: RuledBonds) -> MoleculeChecks:
    """Which molecules are stable and connected.

    Without hydrogen: bonds to hydrogens count, but only other atoms are asked; a molecule of
    hydrogen alone has none to ask, and passes.
    """
    heavy = structures.atomic_numbers > 1
    return MoleculeChecks(
        stable=_all_of(structures, bonds.stable),
        stable_without_h=_all_of(structures, bonds.stable | ~heavy),
        connected=num_fragments(structures, bonds.table) <= 1,
        connected_without_h=num_fragments(structures, bonds.table, heavy) <= 1,
    )


def molecule_table(
    structures: Structures,
    reference: Structures | None = None,
    training: Structures | None = None,
    options: MetricOptions = MetricOptions(),
) -> dict[str, float | str]:
    """All metrics of a set of open molecules by name, as the module lists them.

    reference: the same molecules, atom by atom, for RMSD and topology. training: the molecules that
    are not novel. Values are shares in 0 .. 1, numbers of molecules, and lengths in
    :data:`METRIC_UNITS`; a share of no molecule at all is nan. ``ValueError`` in one line for an
    empty set, for periodic structures, for references of other molecules, and where RDKit is asked
    for and missing.
    """
    if not len(structures):
        raise ValueError("there are no molecules to measure; give at least one")
    bonds = BOND_RULES[options.bonds](structures)
    checks = check_molecules(structures, bonds)
    heavy = structures.atomic_numbers > 1
    table: dict[str, float | str] = {
        "molecules": len(structures),
        "stable_atoms": mean_or_nan(bonds.stable),
        "stable_atoms_without_h": mean_or_nan(bonds.stable[heavy]),
        "stable_molecules": mean_or_nan(checks.stable),
        "stable_molecules_without_h": mean_or_nan(checks.stable_without_h),
        "connected": mean_or_nan(checks.connected),
        "connected_without_h": mean_or_nan(checks.connected_without_h),
        "valid": mean_or_nan(checks.valid),
    }
    if options.rdkit_validity:
        accepted = [one is not None for one in rdkit_molecules(structures, bonds, "valid_rdkit")]
        table["valid_rdkit"] = mean_or_nan(accepted)
    table |= _variety(structures, bonds, checks.valid, training, options)
    if reference is not None:
        table |= _distances(structures, reference, bonds, options)
    return table


def _variety(
    structures: Structures,
    bonds: RuledBonds,
    valid: np.ndarray,
    training: Structures | None,
    options: MetricOptions,
) -> dict[str, float | str]:
    """Unique and novel ones among the valid molecules."""
    kind = resolve_identity(options.identity)
    names = identities(structures, bonds, kind)
    distinct = {name for name, good in zip(names, valid, strict=True) if good}
    found: dict[str, float | str] = {
        "identity": kind,
        "valid_molecules": int(valid.sum()),
        "unique_molecules": len(distinct),
        "unique": len(distinct) / int(valid.sum()) if valid.any() else np.nan,
    }

    # novel is a share of the unique molecules, not of the valid ones
    if training is not None:
        known = set(identities(training, BOND_RULES[options.bonds](training), kind))
        found["novel_molecules"] = len(distinct - known)
        found["novel"] = len(distinct - known) / len(distinct) if distinct else np.nan
    return found


def resolve_identity(identity: str) -> str:
    """ "smiles" or "graph" for a name in :data:`IDENTITIES`."""
    if identity == "auto":
        return "smiles" if has_rdkit() else "graph"
    return identity


def identities(structures: Structures, bonds: RuledBonds, kind: str) -> list[str]:
    """A text for each molecule, equal for equal molecules.

    kind: "smiles" or "graph". A molecule that RDKit refuses keeps the key of its graph.
    """
    keys = graph_keys(structures, bonds.table)
    if kind == "graph":
        return keys
    smiles = canonical_smiles(structures, bonds)
    return [key if text is None else text for key, text in zip(keys, smiles, strict=True)]


def _distances(
    structures: Structures, reference: Structures, bonds: RuledBonds, options: MetricOptions
) -> dict[str, float]:
    """How far molecules are from their references."""
    held = BOND_RULES[options.bonds](reference).table
    found: dict[str, float] = {}
    for name, heavy in (("rmsd", False), ("heavy_rmsd", True)):
        moved = symmetric_rmsd(structures, reference, held, heavy, options.most_permutations)
        there = moved.rmsd[np.isfinite(moved.rmsd)]
        found[f"{name}_mean"] = mean_or_nan(there)
        found[f"{name}_median"] = median_or_nan(there)
        found[f"{name}_exact"] = mean_or_nan(moved.exact)
    found["topology_kept"] = mean_or_nan(same_pairs(bonds.table, held))
    return found


def steps_table(steps: np.ndarray, converged: np.ndarray) -> dict[str, float]:
    """Steps that a sampler took for each molecule (structures,), and which came to an end (bool).

    The spread is over molecules (0 for one).
    """
    return {
        "steps_mean": mean_or_nan(steps),
        "steps_median": median_or_nan(steps),
        "steps_std": float(np.std(steps)) if len(steps) else np.nan,
        "converged": mean_or_nan(converged),
    }


def _all_of(structures: Structures, flags: np.ndarray) -> np.ndarray:
    """Whether the flags (atoms,) of all atoms of each structure are set (structures,) bool."""
    return np.logical_and.reduceat(flags, structures.offsets[:-1])
