"""``--compare``: the near field alone and with the far field, everything else equal, one table."""

from __future__ import annotations

from functools import partial

from easydict import EasyDict

from farfield.models.networks.blocks import ATTENTIONS, parse_schedule
from farfield.train.tasks.energy_force_errors import ENERGY_UNITS, metric_units
from farfield.train.tasks.task import Plan
from farfield.train.variants import variant

NEAR, WHOLE = "near", "near+far"  # rows and sub folders of a comparison
COMPARED = ("energy_mae", "force_mae")


def comparison_plan(config: EasyDict) -> Plan:
    """Two runs with equal split, seed, optimiser and length.

    ``ValueError`` for several seeds, and for a schedule without a near or without a far field.
    """
    if config.run.seeds > 1:
        raise ValueError(
            f"--compare trains one seed, --seeds is {config.run.seeds}; compare each seed in a "
            "run folder of its own"
        )
    schedules = {NEAR: near_only(config), WHOLE: config.model.schedule}
    configs = [
        variant(config, name, {"compare": False}, {"schedule": schedule})
        for name, schedule in schedules.items()
    ]
    title = "near field alone and with the far field"
    return Plan(title, configs, partial(comparison, schedules))


def near_only(config: EasyDict) -> str:
    """The schedule of ``config`` without its far field.

    ``ValueError`` if it has no far field, or nothing else.
    """
    schedule = config.model.get("schedule")
    if schedule is None:
        raise ValueError(
            f"--compare needs a network with a schedule, {config.model.name} has none; give "
            "--model e2former"
        )
    names = parse_schedule(schedule, config.model.layers)
    near = [ATTENTIONS[name].near_order for name in names if ATTENTIONS[name].near_order]
    if not near or not any(ATTENTIONS[name].far for name in names):
        raise ValueError(
            f"--compare needs a near and a far field, --schedule {schedule} has only one of them; "
            "give a schedule with both, e.g. --schedule hybrid-first-order"
        )
    return "+".join(f"{name}1" for name in near)


def comparison(schedules: dict[str, str], results: list[dict]) -> list[dict]:
    """One row a run: size, time of a step (validations included), test errors in both units."""
    rows = []

    # what a run is and costs, then its errors in each unit
    for (name, schedule), result in zip(schedules.items(), results, strict=True):
        row = {
            "row": name,
            "schedule": schedule,
            "weights": result["parameters"],
            "steps": result["steps"],
            "cpu_minutes": result["cpu_minutes"],
            "cpu_ms_per_step": 60e3 * result["cpu_minutes"] / max(1, result["steps"]),
        }

        model_rows = [line for line in result["test"] if line["row"] == "model"]
        for energy_unit, line in zip(ENERGY_UNITS, model_rows, strict=True):
            units = metric_units(energy_unit)
            for metric in COMPARED:
                if metric in line:
                    row[f"{metric} ({units[metric]})"] = line[metric]
        rows.append(row)
    return rows
