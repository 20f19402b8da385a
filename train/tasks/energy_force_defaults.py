"""What the data say of options that nobody names: sizes, the labels that are learned, and how sets
of many compounds are learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farfield.dataloader.label_statistics import Statistics

ATOMS_PER_BATCH = 72  # of training, where no batch size is named: 8 molecules of ethanol

# Of sets of many compounds (see ``Statistics.varies_by_composition``). To tell compounds apart by
# their neighbours a network must let energies depend on positions, and so gives forces to crystals
# that have none. A cost linear in the error forbids the first small step: zero forces are a minimum
# that no step leaves. Costs that are quadratic below 0.5 eV/Angstrom have no such minimum.
DIVERSE_OPTIONS = {
    "weight_energy": 1.0,
    "weight_forces": 4.0,
    "force_loss": "pseudo_huber",
    "force_scale": 0.5,
    "stress_loss": "pseudo_huber",
    "stress_scale": 0.5,
    "lr": 2e-3,
    "element_start": "periodic_table",
}
DIVERSE_BATCH = 4  # fewest structures

# The virial of an atom adds up what its neighbours give to both sides, where forces cancel: its
# error in eV per atom is several times that of the energy.
STRESS_WEIGHT = 0.1


def options_from_data(statistics: Statistics, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of options by their flat names, as far as ``values`` has them.

    values: of all options, the chosen ones and the defaults of the script.
    """
    found = {
        "avg_degree": statistics.average_neighbors or 1.0,
        "avg_atoms": statistics.average_atoms,
        "far_design_radius": max(1.0, statistics.design_radius),
    }

    # many compounds; stress wherever there is one and forces are slopes
    if statistics.varies_by_composition:
        found |= DIVERSE_OPTIONS
    learns_slopes = statistics.force_rms > 0 and values.get("forces") == "conservative"
    if statistics.stress_rms and learns_slopes:
        found |= {"stress": True, "weight_stress": STRESS_WEIGHT}

    # energies alone are learned where there are no forces
    if not statistics.force_rms:
        found |= {"forces": "none", "weight_forces": 0.0, "weight_energy": 1.0}
    elif values.get("forces") == "none":
        found |= {"weight_forces": 0.0, "weight_energy": 1.0}

    # a limit of atoms or edges is the only limit, unless a number of structures is given too
    if values["max_atoms_per_batch"] or values["max_edges_per_batch"]:
        found["batch_size"] = statistics.structures
    elif values["batch_size"] is None:
        fewest = DIVERSE_BATCH if statistics.varies_by_composition else 1
        found["batch_size"] = max(fewest, round(ATOMS_PER_BATCH / statistics.average_atoms))
    return {name: value for name, value in found.items() if name in values}
