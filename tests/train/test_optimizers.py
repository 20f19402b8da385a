"""Laws of learning rates, averaged weights and weight decay."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from farfield.train.optimizers import SCHEDULES, averaged_model, build_optimizer
from tests.support.toy_training import toy_model, toy_parser


def schedule_of(name, *arguments):
    rates = ["--lr", "0.1", "--min-lr", "0.001", "--warmup-steps", "10"]
    options = toy_parser().parse_config(["--lr-schedule", name, *rates, *arguments]).training
    optimizer = build_optimizer(toy_model(), options)
    return SCHEDULES[name](optimizer, options), optimizer


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_rises_linearly_at_first(name):
    schedule, optimizer = schedule_of(name)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.after_step(0.0)
    assert np.allclose(rates, 0.1 * np.arange(1, 11) / 10)


def test_the_cosine_ends_at_the_smallest_rate_and_is_half_way_in_the_middle():
    schedule, optimizer = schedule_of("cosine", "--warmup-steps", "0")
    optimizer.step()
    for progress in (0.0, 0.5, 1.0):
        schedule.after_step(progress)
        assert math.isclose(
            optimizer.param_groups[0]["lr"], 0.001 + 0.099 * (1 + math.cos(math.pi * progress)) / 2
        )


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_where_it_was_saved(name):
    def steps_of(schedule, optimizer, first, last):
        rates = []
        for step in range(first, last):
            optimizer.step()
            schedule.after_step(step / 20)
            schedule.after_validation(1.0)  # no progress: a plateau halves the rate
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    whole, saved, resumed = (schedule_of(name, "--plateau-patience", "2") for _ in range(3))
    rates = steps_of(*whole, 0, 20)
    assert steps_of(*saved, 0, 12) == rates[:12]
    for new, old in zip(resumed, saved, strict=True):
        new.load_state_dict(old.state_dict())
    assert steps_of(*resumed, 12, 20) == rates[12:]


def test_the_average_forgets_the_initial_weights_early_and_is_slow_late():
    model = nn.Linear(1, 1, bias=False)
    averaged = averaged_model(model, 0.99)
    with torch.no_grad():
        model.weight.fill_(0.0)
        averaged.update_parameters(model)
        model.weight.fill_(1.0)
        distances = []
        for _ in range(1000):
            averaged.update_parameters(model)
            distances.append(1 - averaged.module.weight.item())
    assert distances[20] < 1e-2, "with a constant decay of 0.99 this would be 0.81"
    assert averaged.n_averaged == 1001


def test_weight_decay_leaves_vectors_alone():
    groups = build_optimizer(
        toy_model(), toy_parser().parse_config(["--weight-decay", "0.1"]).training
    ).param_groups
    assert [
        (group["weight_decay"], {weight.ndim for weight in group["params"]}) for group in groups
    ] == [(0.1, {2}), (0.0, {1})]
