"""Laws of the losses: r^2 at the origin, growth far away, slopes, the stacked mean."""

import pytest
import torch

from farfield.train.losses import LOSSES, StructureLoss, WeightedLoss

SQUARE_AT_ORIGIN = ["mse", "huber", "pseudo_huber", "cauchy"]


@pytest.mark.parametrize("name", SQUARE_AT_ORIGIN)
def test_small_residuals_cost_their_square(name):
    r = torch.tensor([1e-3, -2e-3], dtype=torch.float64)
    assert torch.allclose(LOSSES[name](r, 1.5), r.square(), rtol=1e-5)


@pytest.mark.parametrize("name", SQUARE_AT_ORIGIN)
def test_a_wide_scale_gives_the_mean_square(name):
    r = torch.linspace(-3, 3, 7, dtype=torch.float64)
    assert torch.allclose(LOSSES[name](r, 1e5), r.square(), atol=1e-6)


GROWTH = {
    "mse": 2.0,
    "mae": 1.0,
    "huber": 1.0,
    "pseudo_huber": 1.0,
    "vector_norm": 1.0,
    "cauchy": 0.0,
}


@pytest.mark.parametrize("name, power", GROWTH.items())
def test_growth_far_away(name, power):
    far, farther = (
        LOSSES[name](torch.full((1, 3), size, dtype=torch.float64), 1.0).sum()
        for size in (1e6, 1e7)
    )
    assert abs(torch.log10(farther / far).item() - power) < 0.1


@pytest.mark.parametrize("name", LOSSES)
def test_slopes_match_differences_and_are_finite_at_zero(name):
    r = torch.tensor([[0.3, -1.7, 2.2], [0.01, 5.0, -0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: LOSSES[name](value, 0.9), r)
    zero = torch.zeros(2, 3, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(LOSSES[name](zero, 0.9).sum(), zero)[0]).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_slope_of_huber_is_continuous_and_costs_never_fall(name):
    r = torch.linspace(0, 4, 401, dtype=torch.float64).reshape(-1, 1)
    cost = LOSSES[name](r, 1.0).reshape(-1)
    assert (cost.diff() >= 0).all()
    assert cost.diff().diff().abs().max() < 3e-4


def test_equal_weights_are_the_mean_over_the_stacked_parts():
    prediction, target = ({"x": torch.randn(5, 3), "v": torch.randn(5, 3)} for _ in range(2))
    total, parts = WeightedLoss("mse", {"x": 1.0, "v": 1.0})(prediction, target)
    stacked = (
        (torch.stack([prediction["x"], prediction["v"]]) - torch.stack([target["x"], target["v"]]))
        .square()
        .mean()
    )
    assert torch.allclose(total, stacked)
    assert torch.allclose(parts["x"], (prediction["x"] - target["x"]).square().mean())


BAD = [
    ("mze", {"x": 1.0}),
    ("mse", {"x": 0.0}),
    ("mse", {"x": -1.0, "v": 2.0}),
    ("huber", {"x": 1.0}, 0.0),
]


@pytest.mark.parametrize("arguments", BAD)
def test_bad_losses_are_refused(arguments):
    with pytest.raises(ValueError):
        WeightedLoss(*arguments)


def test_structure_parts_are_means_over_structures_and_atom_parts_over_atoms():
    """With a = mean atoms of the batch every part is a mean, of squares here."""
    atoms = torch.tensor([2.0, 4.0], dtype=torch.float64)
    errors = {
        "energy": torch.tensor([1.0, -3.0]),
        "forces": torch.randn(6, 3),
        "stress": torch.randn(2, 3, 3),
        "charges": torch.randn(6),
        "dipole": torch.randn(2, 3),
    }
    errors = {name: error.double() for name, error in errors.items()}
    names, weights = list(errors), dict(zip(errors, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True))
    loss = StructureLoss(weights, 3.0, dict.fromkeys(names, "mse"), dict.fromkeys(names, 1.0))
    total, parts = loss(errors, atoms)
    for name, error in errors.items():
        torch.testing.assert_close(parts[name], error.square().mean())
    expected = sum(weights[name] * error.square().mean() for name, error in errors.items())
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("cost", ["mae", "vector_norm", "huber"])
def test_batches_weighted_by_their_atoms_are_one_batch(cost):
    generator = torch.Generator().manual_seed(0)
    sizes = [torch.tensor([3.0]), torch.tensor([1.0, 5.0])]
    names = ["charges", "dipole"]
    loss = StructureLoss(
        dict.fromkeys(names, 1.0), 2.0, dict.fromkeys(names, cost), dict.fromkeys(names, 0.5)
    )
    batches = [
        {
            "charges": torch.randn(int(atoms.sum()), generator=generator),
            "dipole": torch.randn(len(atoms), 3, generator=generator),
        }
        for atoms in sizes
    ]
    shares = [float(atoms.sum() / 9) for atoms in sizes]
    apart = sum(
        share * loss(batch, atoms)[0]
        for share, batch, atoms in zip(shares, batches, sizes, strict=True)
    )
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in names}
    torch.testing.assert_close(apart, loss(joined, torch.cat(sizes))[0])
