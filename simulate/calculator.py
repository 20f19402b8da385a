"""A trained potential as a calculator of ASE: energy, forces, for crystals stress, and charges.

    from ase.io import read
    from farfield.simulate.calculator import FarfieldCalculator

    atoms = read("molecule.xyz")
    atoms.calc = FarfieldCalculator("runs/ethanol/checkpoint_best.pt")
    print(atoms.get_potential_energy(), atoms.get_forces())          # eV, eV / Angstrom

Everything that ASE does with a calculator works with it: relaxation, vibrations, molecular
dynamics, paths. ``simulate.run_md`` is molecular dynamics as a script, ``farfield.load`` predicts
many structures at once. Neighbours are found again for every geometry (0.1 ms for 9 atoms, 5 ms for
370; the network costs more).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from farfield.common.device import find_device
from farfield.common.precision import PRECISIONS
from farfield.common.trained import TrainedRun
from farfield.dataloader.from_ase import batch_from_atoms
from farfield.dataloader.structure_inputs import find_input
from farfield.models.network import POTENTIAL
from farfield.models.potential import Potential

CHARGED = ("charges", "dipole")  # further predictions of a network, as far as it makes them


class FarfieldCalculator(Calculator):
    """Energy (eV), forces (eV / Angstrom) and stress (eV / Angstrom^3) from a checkpoint.

    Arguments
        path    checkpoint_best.pt or checkpoint_last.pt of a training on energies; the averaged
                weights are used where there are any
        device  where the network computes
        dtype   "float32" or "float64": arithmetic of the network; energies are added up in float64
                in both cases

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
    not a potential, and ValueError for elements that the network was not trained on.
    """

    def __init__(
        self, path: str | Path, device: torch.device | str = "cpu", dtype: str = "float32"
    ):
        super().__init__()
        self.path, self.dtype_name = Path(path), dtype
        self.device = find_device(str(device), "device=")
        self._run = TrainedRun.read(path, self.device)
        self._run.check_predicts(POTENTIAL)
        self._networks: dict[bool, Potential] = {}

        # what the network can say follows from its training
        potential = self._network(stress=False)
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
        batch = batch_from_atoms(
            [self.atoms], self.cutoff, self.dtype, self.device, self.inputs, self.optional_inputs
        )
        prediction = network(batch)

        energy = float(prediction["energy"])
        self.results = {"energy": energy, "free_energy": energy}
        if "forces" in prediction:
            self.results["forces"] = prediction["forces"].double().cpu().numpy()
        if "stress" in prediction:
            stress = prediction["stress"][0].double().cpu().numpy()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)
        if "charges" in prediction:
            self.results["charges"] = prediction["charges"].double().cpu().numpy()
        if "dipole" in prediction:
            self.results["dipole"] = prediction["dipole"][0].double().cpu().numpy()

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What differs from the structure of the last results; ASE itself does not see inputs."""
        changes = super().check_state(atoms, tol=tol)
        if self.atoms is not None:
            before, now = self.atoms.info, atoms.info
            changes += [
                name
                for name in (*self.inputs, *self.optional_inputs)
                if find_input(before, name) != find_input(now, name)
            ]
        return changes

    def _network(self, stress: bool) -> Potential:
        """The network with or without stress; both have the same weights."""
        if stress not in self._networks:
            network = self._run.network(self.device, self.dtype_name, stress=stress)
            self._networks[stress] = network.requires_grad_(False)
        return self._networks[stress]
