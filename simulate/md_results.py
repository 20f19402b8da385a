"""Results of molecular dynamics: means, drift and fluctuation of the energy, and pictures of them.

With the total energy E(t) of N atoms in meV, and its least-squares line a + b t over the run,

    drift = b / N  (meV/atom/ps),      fluctuation = std(E - a - b t) / N  (meV/atom).

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
    results = summarise(records, len(simulation.atoms))
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
    figures.save_figure(folder / "plots" / "energies.png", draw_energies(records))

    # what the user sees
    log(
        f"{results['time']:g} ps, mean temperature {results['mean_temperature']:.0f} K, "
        f"{results['cpu_per_step']:.3g} ms of CPU time per step"
    )
    if ENSEMBLES[config.dynamics.ensemble].conserves_energy:
        log(
            f"total energy: drift {results['drift']:.3g} meV/atom/ps, fluctuation "
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
    than three frames.
    """
    time, total = log["time_fs"] / 1000, MEV * log["total_eV"] / atoms

    # slope and intercept of the line through the total energy
    line = np.polyfit(time, total, 1) if len(time) > 2 else np.array([np.nan, total.mean()])
    around = total - np.polyval(np.nan_to_num(line), time)
    return {
        "time": float(time[-1]),
        "mean_temperature": float(log["temperature_K"].mean()),
        "drift": float(line[0]),
        "fluctuation": float(around.std()),
        "kinetic_fluctuation": float(MEV * log["kinetic_eV"].std() / atoms),
    }


def draw_energies(log: dict[str, np.ndarray]) -> Figure:
    """Energies less their first values, and the temperature, over time."""
    figure = figures.new_figure((9, 3.8))
    left, right = figure.subplots(1, 2)
    time = log["time_fs"] / 1000
    for name in ("potential", "kinetic", "total"):
        values = log[f"{name}_eV"]
        left.plot(time, values - values[0], linewidth=0.8, label=name)
    left.set(xlabel="time (ps)", ylabel="energy less its first value (eV)")
    left.legend()
    right.plot(time, log["temperature_K"], linewidth=0.8)
    right.set(xlabel="time (ps)", ylabel="temperature (K)")
    return figure
