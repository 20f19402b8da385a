"""A trained potential as a calculator of ASE: energy, forces and, for crystals, stress of any
structure.

    from ase.io import read
    from farfield.simulate.calculator import FarfieldCalculator

    atoms = read("molecule.xyz")
    atoms.calc = FarfieldCalculator("runs/ethanol/checkpoint_best.pt")
    print(atoms.get_potential_energy(), atoms.get_forces())          # eV, eV / Angstrom

Everything that ASE does with a calculator (relaxation, vibrations, molecular dynamics, paths) works
with it; ``simulate.run_md`` is molecular dynamics as a script. Neighbours are found anew for every
geometry (0.1 ms for 9 atoms, 5 ms for 370; the network costs more).
"""

from __future__ import annotations

from pathlib import Path

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from easydict import EasyDict

from farfield.common import checkpoint
from farfield.common.command_line import plain
from farfield.common.precision import PRECISIONS
from farfield.dataloader.from_ase import batch_from_atoms
from farfield.models.factory import build_model

TASKS = ("energy_forces", "md17", "md22")  # whose networks are potentials


class FarfieldCalculator(Calculator):
    """Energy (eV), forces (eV / Angstrom) and stress (eV / Angstrom^3, ASE's sign and Voigt order)
    from the checkpoint of a run.

    Arguments
        path    checkpoint_best.pt or checkpoint_last.pt of train_md17 or train_md22; the averaged
                weights are used where there are some
        device  where the network computes
        dtype   "float32" or "float64": arithmetic of the network; energies are float64 sums of
                either

    Attributes: ``elements``, the atomic numbers it was trained on; ``cutoff`` in Angstrom;
    ``conservative``, whether forces are the slope of the energy.

    Energies contain the reference energies of the elements, so they are on the scale of the
    training data. Directions that repeat are those of ``atoms.pbc``; a far field wants none or all
    three of them. Stress is there for structures that repeat in all three and networks whose forces
    are conservative. Raises ``ValueError`` or ``FileNotFoundError`` in one line for a checkpoint
    that is missing, damaged or of no potential, and for structures of elements that it was not
    trained on.
    """

    def __init__(
        self, path: str | Path, device: torch.device | str = "cpu", dtype: str = "float32"
    ):
        super().__init__()
        if dtype not in PRECISIONS:
            raise ValueError(f"dtype must be one of {', '.join(PRECISIONS)}, got {dtype!r}")
        self.path, self.device, self.dtype = Path(path), torch.device(device), PRECISIONS[dtype]
        content = checkpoint.read_run(path, self.device)
        config = EasyDict(content["config"])
        if config.get("task") not in TASKS:
            reason = (
                f"checkpoint {path} is of the task {config.get('task')!r}, which has no energies"
            )
            raise ValueError(f"{reason}; give one of train_md17 or train_md22")
        self._options = {
            key: value for key, value in plain(config.model).items() if key != "preset"
        }
        self._weights = checkpoint.evaluation_weights(content)
        self._models: dict[bool, torch.nn.Module] = {}
        self.cutoff, self.conservative = (
            float(config.model.cutoff),
            config.model.forces == "conservative",
        )
        self.elements = sorted(self._model(stress=False).energy.reference.values())
        self.implemented_properties = ["energy", "free_energy"]
        self.implemented_properties += ["forces"] if config.model.forces != "none" else []
        self.implemented_properties += ["stress"] if self.conservative else []

    def _model(self, stress: bool) -> torch.nn.Module:
        """The network, with or without stress; both have the same weights."""
        if stress not in self._models:
            model = build_model({**self._options, "stress": stress})
            checkpoint.load_weights(model, self._weights, self.path)
            self._models[stress] = (
                model.to(device=self.device, dtype=self.dtype).eval().requires_grad_(False)
            )
        return self._models[stress]

    def calculate(
        self, atoms: Atoms | None = None, properties=("energy",), system_changes=all_changes
    ):
        """All properties at once into ``results``; see
        :class:`ase.calculators.calculator.Calculator`.
        """
        super().calculate(atoms, properties, system_changes)
        crystal = bool(self.atoms.pbc.all())
        if "stress" in properties and not crystal:
            raise PropertyNotImplementedError(
                "stress needs a structure that repeats in all three directions; set "
                "atoms.pbc = True"
            )
        prediction = self._model(stress=crystal and self.conservative)(
            batch_from_atoms([self.atoms], self.cutoff, self.dtype, self.device)
        )
        energy = float(prediction["energy"])
        self.results = {"energy": energy, "free_energy": energy}
        if "forces" in prediction:
            self.results["forces"] = prediction["forces"].double().cpu().numpy()
        if "stress" in prediction:
            self.results["stress"] = full_3x3_to_voigt_6_stress(
                prediction["stress"][0].double().cpu().numpy()
            )
