"""Relaxation of molecules by methods that nobody trained: GFN2-xTB and MMFF94.

| method | energy | library |
|---|---|---|
| gfn2 | GFN2-xTB (Bannwarth, Ehlert, Grimme 2019, J. Chem. Theory Comput. 15, 1652) | tblite |
| mmff94 | MMFF94 force field (Halgren 1996, J. Comput. Chem. 17, 490) | rdkit |

The protocol: a generated molecule is good if relaxation changes little. From the start x and the
relaxed geometry x', both of one method,

    energy gain = E(x) - E(x'),      heavy RMSD = rmsd(x, x') without hydrogens,
    topology kept = the same bonded pairs in x and x'.

GFN2 moves by ASE's BFGS until every force is below ``force_limit``; molecules are neutral, with one
unpaired electron where their number is odd. MMFF94 needs to be told which bonds there are. A
molecule that a method cannot treat (no self-consistency, no parameters) has energies of nan and is
counted as failed.

Both libraries are optional: tblite (LGPL-3.0-or-later, wheel of 7 MB), rdkit (BSD-3-Clause, 32 MB).
Cost: set by the method; GFN2 is some hundred times slower than MMFF94.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Annotated

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorError

from farfield.dataloader.chemistry.bond_rules import BOND_RULES, RuledBonds
from farfield.dataloader.chemistry.bonds import refuse_periodic, same_pairs
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import KCAL_MOL
from farfield.models.choices import Registry, check_positive
from farfield.simulate.rdkit_molecules import import_rdkit, rdkit_molecules
from farfield.simulate.shares import mean_or_nan, median_or_nan
from farfield.simulate.superposition import symmetric_rmsd

INSTALL_TBLITE = "GFN2-xTB needs tblite, which is missing; type: pip install tblite"
RELAXATION_UNITS = {
    "energy_gain_mean": "eV",
    "energy_gain_median": "eV",
    "heavy_rmsd_mean": "Angstrom",
    "heavy_rmsd_median": "Angstrom",
}


@dataclasses.dataclass(frozen=True)
class RelaxationOptions:
    """When a relaxation ends."""

    force_limit: Annotated[float, "largest force of a relaxed molecule, eV/Angstrom"] = 0.05
    max_steps: Annotated[int, "steps after which a relaxation is given up"] = 500

    def __post_init__(self):
        check_positive(self, ("force_limit", "max_steps"), "of a relaxation")


@dataclasses.dataclass
class RelaxedMolecules:
    """What a relaxation made of structures.

    Attributes
        structures    relaxed geometries; as they were where the method failed
        before, after (structures,) energies, eV, nan where the method failed
        converged     (structures,) bool
        steps         (structures,) int64 steps of the optimiser; 0 where nobody counts them
    """

    structures: Structures
    before: np.ndarray
    after: np.ndarray
    converged: np.ndarray
    steps: np.ndarray


Progress = Callable[[int], None]  # called with the number of molecules done since the last call

# (structures, their bonds, options, progress) -> relaxed
Relaxation = Callable[[Structures, RuledBonds, RelaxationOptions, Progress], RelaxedMolecules]
RELAXATIONS: Registry[Relaxation] = Registry("relaxation")


def relax_molecules(
    structures: Structures,
    method: str = "gfn2",
    bonds: RuledBonds | None = None,
    options: RelaxationOptions = RelaxationOptions(),
    progress: Progress = lambda done: None,
) -> RelaxedMolecules:
    """Relax every open structure by ``method``, a name in :data:`RELAXATIONS`.

    bonds: of the structures, for force fields; where the geometry is too distorted to show them,
    the bonds of the molecules before (None: perceived in the structures). ``ValueError`` in one
    line for an unknown method, a missing library and periodic structures.
    """
    relax = RELAXATIONS.find(method)
    refuse_periodic(structures)
    bonds = BOND_RULES["perceived"](structures) if bonds is None else bonds
    return relax(structures, bonds, options, progress)


def check_installed(method: str) -> None:
    """Raise ``ValueError`` that says what to install where the library of ``method`` is missing.

    Methods that somebody else registered need none that is known here.
    """
    if method == "gfn2":
        _import_tblite()
    elif method == "mmff94":
        import_rdkit("MMFF94")


@RELAXATIONS.register("gfn2")
def _by_gfn2(
    structures: Structures, bonds: RuledBonds, options: RelaxationOptions, progress: Progress
) -> RelaxedMolecules:
    return relax_by_calculator(structures, gfn2_calculator, options, progress)


@RELAXATIONS.register("mmff94")
def _by_mmff94(
    structures: Structures, bonds: RuledBonds, options: RelaxationOptions, progress: Progress
) -> RelaxedMolecules:
    """By RDKit's own optimiser, whose limit of forces is tighter than the options'."""
    import_rdkit("MMFF94")
    from rdkit.Chem import rdForceFieldHelpers as fields

    relaxed = _unrelaxed(structures)
    for place, molecule in enumerate(rdkit_molecules(structures, bonds, "MMFF94")):
        progress(1)
        if molecule is None or not fields.MMFFHasAllMoleculeParams(molecule):
            continue
        settings = fields.MMFFGetMoleculeProperties(molecule, mmffVariant="MMFF94")
        field = fields.MMFFGetMoleculeForceField(molecule, settings)

        relaxed.before[place] = KCAL_MOL * field.CalcEnergy()
        relaxed.converged[place] = field.Minimize(maxIts=options.max_steps) == 0
        relaxed.after[place] = KCAL_MOL * field.CalcEnergy()
        rows = slice(*structures.offsets[place : place + 2])
        relaxed.structures.positions[rows] = molecule.GetConformer().GetPositions()
    return relaxed


def gfn2_calculator(atoms: Atoms) -> Calculator:
    """GFN2-xTB for one neutral molecule; ``ValueError`` where tblite is missing."""
    unpaired = int(atoms.numbers.sum()) % 2
    return _import_tblite()(method="GFN2-xTB", charge=0, multiplicity=1 + unpaired, verbosity=0)


def _import_tblite():
    """The calculator of tblite."""
    try:
        from tblite.ase import TBLite
    except ModuleNotFoundError:
        raise ValueError(INSTALL_TBLITE) from None
    return TBLite


def relax_by_calculator(
    structures: Structures,
    calculator: Callable[[Atoms], Calculator],
    options: RelaxationOptions = RelaxationOptions(),
    progress: Progress = lambda done: None,
) -> RelaxedMolecules:
    """Relax by any calculator of ASE: ``calculator(atoms)`` is called once for each structure.

    A structure whose calculator raises ``CalculatorError`` counts as failed.
    """
    relaxed = _unrelaxed(structures)
    for place in range(len(structures)):
        with contextlib.suppress(CalculatorError):
            _relax_one(relaxed, place, calculator, options)
        progress(1)
    return relaxed


def _relax_one(
    relaxed: RelaxedMolecules,
    place: int,
    calculator: Callable[[Atoms], Calculator],
    options: RelaxationOptions,
) -> None:
    """Relax one structure; nothing of it is changed before all is computed."""
    from ase.optimize import BFGS  # --help does not wait for it

    structures = relaxed.structures
    rows = slice(*structures.offsets[place : place + 2])
    atoms = Atoms(structures.atomic_numbers[rows], structures.positions[rows])
    atoms.calc = calculator(atoms)

    before = atoms.get_potential_energy()
    optimizer = BFGS(atoms, logfile=None)
    converged = optimizer.run(fmax=options.force_limit, steps=options.max_steps)
    after = atoms.get_potential_energy()

    relaxed.before[place], relaxed.after[place] = before, after
    relaxed.converged[place] = converged
    relaxed.steps[place] = optimizer.nsteps
    structures.positions[rows] = atoms.positions


def _unrelaxed(structures: Structures) -> RelaxedMolecules:
    """Nothing relaxed yet: the geometries as they are, all energies nan."""
    count = len(structures)
    copy = Structures(
        structures.atomic_numbers, structures.positions.copy(), structures.counts, check=False
    )
    return RelaxedMolecules(
        copy,
        before=np.full(count, np.nan),
        after=np.full(count, np.nan),
        converged=np.zeros(count, bool),
        steps=np.zeros(count, np.int64),
    )


def relaxation_table(
    structures: Structures, relaxed: RelaxedMolecules, rule: str = "perceived"
) -> dict[str, float]:
    """What relaxation changed, by name, in :data:`RELAXATION_UNITS`.

    Shares are of all molecules; means and medians are over the molecules that the method
    could treat (nan: none). rule: of the bonds, a name in ``BOND_RULES``. Molecules of hydrogen
    alone have no heavy RMSD and are left out of it.
    """
    find = BOND_RULES.find(rule)
    before, after = find(structures).table, find(relaxed.structures).table
    treated = np.isfinite(relaxed.after)
    gain = (relaxed.before - relaxed.after)[treated]
    moved = symmetric_rmsd(relaxed.structures, structures, before, heavy=True)
    rmsd = moved.rmsd[treated & np.isfinite(moved.rmsd)]
    return {
        "molecules": len(structures),
        "failed": int((~treated).sum()),
        "converged": float(relaxed.converged.mean()),
        "topology_kept": float((treated & same_pairs(before, after)).mean()),
        "energy_gain_mean": mean_or_nan(gain),
        "energy_gain_median": median_or_nan(gain),
        "heavy_rmsd_mean": mean_or_nan(rmsd),
        "heavy_rmsd_median": median_or_nan(rmsd),
    }
