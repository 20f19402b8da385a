"""Options of the energy and force task: data, and the loss that they make."""

from __future__ import annotations

from farfield.common.command_line import OptionParser
from farfield.train.compile_modes import AUTO_CPU_MINUTES, AUTO_STEPS, COMPILE_MODES
from farfield.train.losses import LOSSES
from farfield.train.run_options import add_batch_limits


def add_data_options(parser: OptionParser) -> None:
    """Where the data lie, and what limits a batch."""
    data = parser.section("data", "what is learned from")
    data.add(
        "--data-path",
        str,
        "data/structures",
        main=True,
        help="folder or .lmdb file made by preprocess_structures, preprocess_md17 or "
        "preprocess_md22; several sets: NAME=PATH joined by commas",
    )

    # of several sets
    weights = "how often an epoch draws each structure of a set, joined by commas (default 1 each)"
    data.add("--set-weights", str, None, help=weights)
    heads = "give each set of --data-path an energy head and reference energies of its own"
    data.add("--heads-per-set", bool, False, help=heads)
    add_batch_limits(data)

    compiled = (
        "compile the training step to C++: on, off, or where the run is planned long enough (auto: "
        f"{AUTO_CPU_MINUTES:g} minutes or {AUTO_STEPS} steps)"
    )
    run = parser.section("run", "")
    run.add("--compile", str, "auto", choices=list(COMPILE_MODES), help=compiled)
    again = (
        "make temporaries of a training step again instead of keeping them, for large batches: "
        "about 40 percent less memory, no compiled step (e2former)"
    )
    run.add("--recompute", bool, False, help=again)


def add_loss_options(parser: OptionParser) -> None:
    """Weights and costs; errors in eV, eV/Angstrom, eV/Angstrom^3, e, e Angstrom.

    An energy is a sum over atoms: both its error and the part of its gradient grow with the number
    of atoms, unless the error is divided by it. Undivided energies of the 148 atoms of MD22's
    buckyball-catcher (weight 0.1) drown the forces: training stays at the error of zero forces for
    hundreds of steps (``--energy-per structure --weight-energy 0.1``), with divided ones it does
    not.
    """
    loss = parser.section("loss", "what is minimised")
    costs = list(LOSSES)

    # weights of the parts
    energy = "weight of the energy part (1 where energies vary by composition)"
    loss.add("--weight-energy", float, 0.2, low=0, main=True, help=energy)
    force = "weight of the force part (4 where energies vary by composition)"
    loss.add("--weight-forces", float, 1.0, low=0, main=True, help=force)
    stress = "weight of the stress part (0.1 where the data have stress)"
    loss.add("--weight-stress", float, 0.0, low=0, help=stress)
    per = "multiply a stress error by the volume per atom, or take it per volume"
    loss.add("--stress-per", str, "atom", choices=["volume", "atom"], help=per)
    charges = "weight of the charge part: partial charges of the atoms in the data"
    loss.add("--weight-charges", float, 0.0, low=0, help=charges)
    dipole = "weight of the dipole part: dipoles of the structures in the data"
    loss.add("--weight-dipole", float, 0.0, low=0, help=dipole)

    # cost of an error
    loss.add("--energy-loss", str, "mae", choices=costs, help="cost of an energy error")
    force = "cost of a force error; vector_norm is L2-MAE"
    loss.add("--force-loss", str, "vector_norm", choices=costs, help=force)
    stress = "cost of a stress error; vector_norm is the length of its nine numbers"
    loss.add("--stress-loss", str, "vector_norm", choices=costs, help=stress)
    loss.add("--charges-loss", str, "mae", choices=costs, help="cost of a charge error")
    moment = "cost of a dipole error; vector_norm is its length"
    loss.add("--dipole-loss", str, "vector_norm", choices=costs, help=moment)
    per = "divide an energy error by the atoms, or take it per structure"
    loss.add("--energy-per", str, "atom", choices=["structure", "atom"], help=per)
    energy_scale = "energy error at which a robust loss turns linear, eV"
    loss.add("--energy-scale", float, 0.01, above=0, help=energy_scale)
    force_scale = "force error at which a robust loss turns linear, eV/Angstrom"
    loss.add("--force-scale", float, 0.02, above=0, help=force_scale)
    stress_scale = "stress error at which a robust loss turns linear, eV per atom or eV/Angstrom^3"
    loss.add("--stress-scale", float, 0.5, above=0, help=stress_scale)
    charges_scale = "charge error at which a robust loss turns linear, e"
    loss.add("--charges-scale", float, 0.02, above=0, help=charges_scale)
    dipole_scale = "dipole error at which a robust loss turns linear, e Angstrom"
    loss.add("--dipole-scale", float, 0.05, above=0, help=dipole_scale)

    # energies may count more late in the run
    factor = "factor of the energy weight late in the run"
    loss.add("--late-energy-factor", float, 1.0, low=0, help=factor)
    start = "fraction of the run after which --late-energy-factor applies"
    loss.add("--late-start", float, 0.75, low=0, high=1, help=start)
