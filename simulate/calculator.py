"""A trained potential as a calculator of ASE: energy, forces, for crystals stress, and charges.

    from ase.io import read
    from farfield.simulate.calculator import FarfieldCalculator

    atoms = read("molecule.xyz")
    atoms.calc = FarfieldCalculator("runs/ethanol/checkpoint_best.pt")
    print(atoms.get_potential_energy(), atoms.get_forces())          # eV, eV / Angstrom

Everything that ASE does with a calculator works with it: relaxation, vibrations, molecular
dynamics, paths. ``simulate.run_md`` is molecular dynamics as a script. Pairs of atoms are searched
again only when atoms have moved far enough for new ones (``dataloader/moving_structure.py``).
``evaluate_many`` computes structures in batches; ``farfield.load`` predicts files of them.

With ``compile="on"`` or ``"auto"`` the network is compiled to C++ once and kept on the disk
(``models/compiled``): several times faster for small structures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from farfield.common.device import find_device
from farfield.common.precision import PRECISIONS
from farfield.common.trained import TrainedRun
from farfield.dataloader.from_ase import batch_from_atoms, inputs_held
from farfield.dataloader.moving_structure import MovingStructure
from farfield.dataloader.structure_inputs import find_input
from farfield.dataloader.to_ase import structure_results
from farfield.models.compiled.compiled_potential import CompiledPotential
from farfield.models.network import POTENTIAL

CHARGED = ("charges", "dipole")  # further predictions of a network, as far as it makes them


class FarfieldCalculator(Calculator):
    """Energy (eV), forces (eV / Angstrom) and stress (eV / Angstrom^3) from a checkpoint.

    Arguments
        path    checkpoint_best.pt or checkpoint_last.pt of a training on energies; the averaged
                weights are used where there are any
        device  where the network computes
        dtype   "float32" or "float64": arithmetic of the network; energies are added up in float64
                in both cases
        compile  "off", "on" (at the first structure) or "auto" (where it pays); values are those of
                the network up to rounding. See ``models/compiled/compiled_potential.py``
        evaluations  how many are to come, for "auto"; None where nobody knows
        report  called with every line on compiling (default: print)
        head    of a network that was trained on several sets with heads of their own, the name of
                the set whose energies are computed

    Attributes
        elements      atomic numbers that the network was trained on
        cutoff        reach of the near field, Angstrom; where the network takes any graph, the
                      cutoff of its training data
        conservative  whether forces are the slope of the energy
        inputs        names in ``atoms.info`` that the network reads besides the geometry
        optional_inputs  names in ``atoms.info`` that it reads where they are there

    Energies contain the reference energies of the elements, so they are on the scale of the
    training data. ``atoms.pbc`` says which directions repeat; a network with a far field reads
    structures with none or all three. Stress has ASE's sign and Voigt order, and exists for
    structures that repeat in all three directions and networks with conservative forces. Networks
    with charges give ``charges`` (e), and of open structures ``dipole`` (e Angstrom); some give the
    latter alone.

    Raises FileNotFoundError or ValueError in one line for a checkpoint that is missing, damaged or
    not a potential, and ValueError for elements that the network was not trained on and for a
    network whose energy is a staircase (``Network.energy_steps``).
    """

    def __init__(
        self,
        path: str | Path,
        device: torch.device | str = "cpu",
        dtype: str = "float32",
        compile: str = "off",
        evaluations: int | None = None,
        report: Callable[[str], object] = print,
        head: str | None = None,
    ):
        super().__init__()
        self.dtype_name = dtype
        self.device = find_device(str(device), "device=")
        self._run = TrainedRun.read(path, self.device)
        self.path = self._run.path
        self._run.check_predicts(POTENTIAL)
        self._run.check_head(head)
        self.head = head
        self._compiling = {"mode": compile, "report": report, "evaluations": evaluations}
        self._networks: dict[bool, CompiledPotential] = {}

        # what the network can say follows from its training
        potential = self._network(stress=False).potential
        if potential.energy_steps is not None:
            raise ValueError(
                f"checkpoint {self.path} is for no dynamics and no relaxation: "
                f"{potential.energy_steps}; train with --near-kernel-implementation "
                "memory_efficient (farfield.load still predicts)"
            )
        self.dtype = PRECISIONS[dtype]
        self.cutoff = self._run.graph_cutoff(potential)
        self.conservative = potential.forces == "conservative"
        self.inputs = list(potential.inputs)
        self.optional_inputs = list(potential.optional_inputs)
        self.elements = sorted(potential.reference.values())
        self.implemented_properties = ["energy", "free_energy"]
        if potential.forces != "none":
            self.implemented_properties.append("forces")
        if self.conservative:
            self.implemented_properties.append("stress")
        self.implemented_properties += [name for name in CHARGED if name in potential.outputs()]
        self._moving = MovingStructure(
            self.cutoff, self.dtype, self.device, self.inputs, self.optional_inputs
        )

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """All properties at once into ``results``, as ASE asks for it."""
        super().calculate(atoms, properties, system_changes)
        crystal = bool(self.atoms.pbc.all())
        if "stress" in properties and not crystal:
            raise PropertyNotImplementedError(
                "stress needs a structure that repeats in all three directions; set "
                "atoms.pbc = True"
            )
        if "dipole" in properties and self.atoms.pbc.any():
            raise PropertyNotImplementedError(
                "dipole needs a structure that does not repeat; set atoms.pbc = False"
            )

        network = self._network(stress=crystal and self.conservative)
        batch = self._moving.batch(self.atoms)
        (self.results,) = _with_free_energy(structure_results(batch, network(batch)))

    def evaluate_many(self, atoms: Sequence[Atoms], max_atoms: int = 2048) -> list[dict]:
        """``results`` of every structure, in their order, computed in batches.

        Structures of one kind (number of atoms, directions that repeat, inputs) share batches of at
        most ``max_atoms`` atoms. Raises ValueError as :func:`batch_from_atoms`.
        """
        kinds: dict[tuple, list[int]] = {}
        for index, one in enumerate(atoms):
            held = inputs_held(one, self.optional_inputs)
            kinds.setdefault((len(one), tuple(one.pbc.tolist()), held), []).append(index)

        found: list[dict] = [{}] * len(atoms)
        for (size, periodic, _), members in kinds.items():
            network = self._network(stress=all(periodic) and self.conservative)
            most = max(1, max_atoms // max(size, 1))
            for first in range(0, len(members), most):
                chosen = members[first : first + most]
                batch = batch_from_atoms(
                    [atoms[index] for index in chosen],
                    self.cutoff,
                    self.dtype,
                    self.device,
                    self.inputs,
                    self.optional_inputs,
                )
                results = _with_free_energy(structure_results(batch, network(batch)))
                for index, one in zip(chosen, results, strict=True):
                    found[index] = one
        return found

    def prepare(self, atoms: Atoms, compiled: bool | None = None) -> bool:
        """Decide now whether structures like this one are computed by compiled code; the decision.

        compiled: whether they should be; None where it is to be found out ("auto"). A run that
        must repeat bit for bit decides once, here: afterwards nothing is compiled any more.
        """
        network = self._network(stress=bool(atoms.pbc.all()) and self.conservative)
        batch = self._moving.batch(atoms)
        chosen = network.is_worth(batch) if compiled is None else compiled
        return network.settle(batch, chosen)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What differs from the structure of the last results; ASE itself does not see inputs.

        Atoms that moved are seen at once: ASE's own comparison takes a tenth of a millisecond.
        """
        if self.atoms is not None and not np.array_equal(self.atoms.positions, atoms.positions):
            return list(all_changes)
        changes = super().check_state(atoms, tol=tol)
        if self.atoms is not None:
            before, now = self.atoms.info, atoms.info
            changes += [
                name
                for name in (*self.inputs, *self.optional_inputs)
                if find_input(before, name) != find_input(now, name)
            ]
        return changes

    def _network(self, stress: bool) -> CompiledPotential:
        """The network with or without stress; both have the same weights."""
        if stress not in self._networks:
            network = self._run.network(self.device, self.dtype_name, self.head, stress=stress)
            network.requires_grad_(False)
            self._networks[stress] = CompiledPotential(network, **self._compiling)
        return self._networks[stress]


def _with_free_energy(results: list[dict]) -> list[dict]:
    """ASE asks for a free energy, which at zero electronic temperature is the energy."""
    return [{**result, "free_energy": result["energy"]} for result in results]
