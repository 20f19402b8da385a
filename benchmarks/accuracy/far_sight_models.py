"""The networks of the far-sight benchmark as data, and their options on a set.

A model is a schedule and a few options; everything else is equal for all models of a set. Channels
of models without a far field are chosen so that they have as many weights as the set's hybrid.
Cost: building networks until their sizes match.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from benchmarks.accuracy.far_sight_sets import CHARGE, Problem
from benchmarks.compared_networks import NETWORK
from farfield.models.factory import build_model

TOLERANCE = 0.1  # largest relative difference between the numbers of weights

COMMON = {
    "radial_basis": "bessel",
    "radial_size": 8,
    "radial_hidden": 32,
    "near_heads": 2,
    "near_score_width": 4,
    "drop_path": 0.0,
    # Two atoms act on each other by the product of learned charges, in a sum that is neither
    # averaged nor cut off.
    "far_feature_map": "identity",
    "far_key_features": 1,
    "far_normalisation": "none",
    "far_heads": 4,
    "far_value_channels": 4,
    "far_kernel_lmax": 2,
    "far_value_lmax": None,
    "far_radial_scale": 0.05,
    "far_expansion": "pairwise",
    "far_weight": 1.0,
    "charges": "none",
}
# Gauss-Legendre nodes up to 0.8: spacing <= pi / r for r < 30 Angstrom. The near field has the
# shorter waves.
STANDING_WAVES = {"far_kernel": "standing_waves", "far_num_kappa": 8, "far_kappa_max": 0.8}


@dataclasses.dataclass(frozen=True)
class Model:
    """A row of the comparison.

    schedule: of its layers; None: the schedule of the set's hybrid. options: of the network.
    reads_charge: whether features are conditioned on the total charge where the set says so.
    """

    schedule: str | None
    options: Mapping[str, object]
    reads_charge: bool = True


SCREENED = {"far_kernel": "screened", "far_radial_scale": 1.0, "far_radial_terms": 5}
MODELS = {
    "near": Model("first-order2", STANDING_WAVES),
    "deep": Model("first-order4", STANDING_WAVES),
    "hybrid": Model(None, STANDING_WAVES),
    "near_blind": Model("first-order2", STANDING_WAVES, reads_charge=False),
    "near_charges": Model("first-order2", {"charges": "latent"}),
    "near_equilibrated": Model("first-order2", {"charges": "equilibrated"}),
    "screened": Model(None, SCREENED),
    "screened_charges": Model(None, {**SCREENED, "charges": "latent"}),
    "screened_equilibrated": Model(None, {**SCREENED, "charges": "equilibrated"}),
}


def irreps(channels: int, lmax: int) -> str:
    """``channels`` of every degree up to ``lmax``, "16x0e+16x1o"."""
    return "+".join(f"{channels}x{degree}{'eo'[degree % 2]}" for degree in range(lmax + 1))


def model_options(
    problem: Problem, model: Model, schedule: str, channels: int, extra: Mapping[str, object]
) -> dict[str, object]:
    """Options of one network; averages and radius are those of the data.

    extra: options of the command line, which have the last word.
    """
    case, found = problem.case, problem.statistics
    of_network = {
        "irreps": irreps(channels, case.lmax),
        "schedule": schedule,
        "cutoff": case.cutoff,
        "avg_degree": found.average_neighbors or 1.0,
        "avg_atoms": found.average_atoms,
        "far_design_radius": max(1.0, problem.radius),
        "forces": "conservative" if case.forces else "none",
    }
    if case.conditioned and model.reads_charge:
        of_network["condition"] = CHARGE

    waves = case.standing_waves if model.options.get("far_kernel") == "standing_waves" else {}
    options = {**COMMON, **model.options, **of_network, **case.model, **waves, **extra}
    return {"name": NETWORK, **options}


def count_weights(options: dict[str, object]) -> int:
    """Weights of the network of ``options``."""
    return sum(weight.numel() for weight in build_model(options).parameters())


def matched_channels(
    weights: int, options_of: Callable[[int], dict[str, object]], step: int
) -> int:
    """Channels, a multiple of ``step``, whose network is nearest to ``weights`` weights.

    options_of: channels -> options. Raises ValueError for a difference beyond ``TOLERANCE``.
    """
    # Sizes rise with the channels: the first network that is large enough is the last candidate.
    channels, sizes = step, {}
    while not sizes or sizes[channels - step] < weights:
        sizes[channels] = count_weights(options_of(channels))
        channels += step

    best = min(sizes, key=lambda channels: abs(sizes[channels] - weights))
    if abs(sizes[best] - weights) > TOLERANCE * weights:
        raise ValueError(
            f"no multiple of {step} channels gives {weights} weights within {TOLERANCE:.0%}: "
            f"{best} give {sizes[best]}"
        )
    return best


def network(
    problem: Problem, name: str, extra: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Options of the network ``name`` on a set.

    Without a schedule of its own it has the channels of the set, otherwise as many weights as the
    set's hybrid. Raises ValueError for a model that the installed network does not know, or that
    makes no difference on the set.
    """
    case, model, extra = problem.case, MODELS[name], extra or {}
    if not model.reads_charge and not case.conditioned:
        raise ValueError("no network of this set reads the total charge")
    if model.schedule is None:
        return model_options(problem, model, case.schedule, case.channels, extra)

    hybrid = model_options(problem, MODELS["hybrid"], case.schedule, case.channels, {})
    channels = matched_channels(
        count_weights(hybrid),
        lambda channels: model_options(problem, model, model.schedule, channels, extra),
        step=int(COMMON["near_heads"]),
    )
    return model_options(problem, model, model.schedule, channels, extra)
