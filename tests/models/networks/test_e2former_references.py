"""Reference energies of an E2Former: digits, scale, and the elements it knows."""

from __future__ import annotations

import pytest
import torch

from tests.support.small_e2former import draw, made


def test_reference_energies_keep_their_digits():
    """Total energies of 1e4 eV come out to 1e-9 eV although the network computes in float32, also
    after casts and a checkpoint.
    """
    model, batch = made(), draw()
    learned = model(batch)["energy"]
    energies = {1: -13.587222780835477, 6: -1029.4889999855063, 8: -2041.9816003861047}
    model.set_reference(energies, scale=0.25, shift=-0.5)
    expected = 0.25 * learned - 0.5 * batch.graph.nodes_per_graph
    for graph, (low, high) in enumerate([(0, 5), (5, 8)]):
        expected[graph] += sum(energies[int(number)] for number in batch.atomic_numbers[low:high])
    assert model(batch)["energy"].dtype == torch.float64
    torch.testing.assert_close(model(batch)["energy"], expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        model.reference_energy(batch), expected - 0.25 * learned, rtol=0, atol=1e-9
    )
    again = made(seed=1)
    again.load_state_dict(model.state_dict())
    for cast in (again, again.to(torch.float32), again.double().float()):
        torch.testing.assert_close(cast(batch)["energy"], expected, rtol=0, atol=1e-9)


def test_forces_scale_with_the_energy():
    model, batch = made(), draw()
    before = model(batch)["forces"]
    model.set_reference(
        {int(number): -1000.0 for number in batch.atomic_numbers.unique()}, scale=3.0
    )
    torch.testing.assert_close(model(batch)["forces"], 3 * before)


@pytest.mark.parametrize(
    ("arguments", "quoted"),
    [
        (({0: 1.0},), "got a reference energy for 0"),
        (({119: 1.0},), "119"),
        (({1: float("nan")},), "finite"),
        (({}, 0.0), "scale 0.0"),
    ],
)
def test_bad_references_are_refused(arguments, quoted):
    with pytest.raises(ValueError, match=quoted):
        made().set_reference(*arguments)


def test_direct_forces_are_in_units_of_the_scale():
    model, batch = made(forces="direct"), draw()
    before = model(batch)["forces"]
    model.set_reference({int(number): 0.0 for number in batch.atomic_numbers.unique()}, scale=3.0)
    torch.testing.assert_close(model(batch)["forces"], 3 * before)


def test_inference_mode_is_refused_where_forces_are_derivatives():
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match=r"torch.inference_mode\(\) forbids; use torch.no_grad\(\)"),
    ):
        made()(draw())


def test_elements_that_were_not_trained_are_refused():
    model, batch = made(), draw()
    numbers = sorted(int(number) for number in batch.atomic_numbers.unique())
    model.set_reference(dict.fromkeys(numbers[1:], -1.0))
    with pytest.raises(ValueError, match=rf"unknown element .* \(Z = {numbers[0]}\)"):
        model(batch)
