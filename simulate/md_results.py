"""Results of molecular dynamics: means, drift and fluctuation of the energy, and pictures of them.

With the total energy E(t) of N atoms in meV, and its least-squares line a + b t over the run,

    drift = b / N  (meV/atom/ps),      fluctuation = std(E - a - b t) / N  (meV/atom).

A line needs ten of the fastest vibrations (10 fs each): a shorter run has no drift.
Cost: linear in the frames of the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from farfield.common import checkpoint, figures
from farfield.common.command_line import saved_config
from farfield.common.log import RunLog, write_json
from farfield.simulate.dynamics import ENSEMBLES, LOG, TRAJECTORY, Simulation, read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEV = 1000.0  # in an eV
SHORTEST_FOR_DRIFT = 0.1  # ps
UNITS = {
    "time": "ps",
    "mean_temperature": "K",
    "drift": "meV/atom/ps",
    "fluctuation": "meV/atom",
    "kinetic_fluctuation": "meV/atom",
    "cpu_per_step": "ms",
}


def finish(simulation: Simulation, config, log: RunLog) -> dict:
    """Write ``results.json`` and ``plots/energies.png`` of a run and print its results."""
    folder, records = simulation.folder, read_log(simulation.folder)
    atoms = len(simulation.atoms)
    results = summarise(records, atoms)
    cpu_seconds_per_step = simulation.cpu_seconds / max(simulation.step, 1)
    results |= {"cpu_per_step": 1000 * cpu_seconds_per_step, "steps": simulation.step}

    # the files
    content = {
        **results,
        "units": UNITS,
        "config": saved_config(config),
        "versions": checkpoint.recorded_versions(),
    }
    write_json(folder / "results.json", content)
    figures.save_figure(folder / "plots" / "energies.png", draw_energies(records, atoms))

    # what the user sees
    log(
        f"{results['time']:g} ps, mean temperature {results['mean_temperature']:.0f} K, "
        f"{results['cpu_per_step']:.3g} ms of CPU time per step"
    )
    if ENSEMBLES[config.dynamics.ensemble].conserves_energy:
        drift = f"drift {results['drift']:.3g} meV/atom/ps"
        if np.isnan(results["drift"]):
            drift = f"too short for a drift ({SHORTEST_FOR_DRIFT:g} ps, three frames)"
        log(
            f"total energy: {drift}, fluctuation "
            f"{results['fluctuation']:.3g} meV/atom (kinetic energy alone: "
            f"{results['kinetic_fluctuation']:.3g} meV/atom)"
        )
    log(
        f"results {folder / 'results.json'}   plots {folder / 'plots'}   trajectory "
        f"{folder / TRAJECTORY}   log {folder / LOG}"
    )
    return results


def summarise(log: dict[str, np.ndarray], atoms: int) -> dict[str, float]:
    """Results of a run from its log, in the units of ``UNITS``.

    log: columns of ``log.csv``, each (frames,). atoms: number of atoms. The drift is nan for fewer
    than three frames, and for a run that is too short.
    """
    time, total = log["time_fs"] / 1000, MEV * log["total_eV"] / atoms

    # slope and intercept of the line through the total energy
    line = np.polyfit(time, total, 1) if len(time) > 2 else np.array([np.nan, total.mean()])
    around = total - np.polyval(np.nan_to_num(line), time)
    long_enough = time[-1] - time[0] >= SHORTEST_FOR_DRIFT
    return {
        "time": float(time[-1]),
        "mean_temperature": float(log["temperature_K"].mean()),
        "drift": float(line[0]) if long_enough else np.nan,
        "fluctuation": float(around.std()),
        "kinetic_fluctuation": float(MEV * log["kinetic_eV"].std() / atoms),
    }


def draw_energies(log: dict[str, np.ndarray], atoms: int) -> Figure:
    """Energies less their first values, the total energy with a scale of its own, the temperature.

    log: columns of ``log.csv``, each (frames,). atoms: number of atoms.
    """
    figure = figures.new_figure((12, 3.8))
    energies, total, temperature = figure.subplots(1, 3)
    time = log["time_fs"] / 1000
    for name in ("potential", "kinetic"):
        values = log[f"{name}_eV"]
        energies.plot(time, values - values[0], linewidth=0.8, label=name)
    energies.set(xlabel="time (ps)", ylabel="energy less its first value (eV)")
    energies.legend()

    # what is conserved is a thousand times smaller than what is exchanged
    deviation = MEV * (log["total_eV"] - log["total_eV"][0]) / atoms
    total.plot(time, deviation, linewidth=0.8)
    total.set(xlabel="time (ps)", ylabel="change of the total energy (meV/atom)")
    temperature.plot(time, log["temperature_K"], linewidth=0.8)
    temperature.set(xlabel="time (ps)", ylabel="temperature (K)")
    return figure
