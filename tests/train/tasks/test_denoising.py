"""Laws of the denoising task: its errors against references, its loss, its graphs."""

import numpy as np
import pytest
import torch
from easydict import EasyDict

from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import GraphIndex
from farfield.train.tasks.chain_errors import chain_rmsd, superposed_rmsd
from farfield.train.tasks.denoising import DenoisingTask, graph_settings
from farfield.train.tasks.task import Evaluation
from tests.support.turns import orthogonal


def graph_of(*sizes):
    nothing = torch.zeros(0, dtype=torch.int64)
    return GraphIndex(nothing, nothing, torch.tensor(sizes))


def batch_of(positions, displacement, *sizes):
    return AtomBatch(graph_of(*sizes), positions, labels={"displacement": displacement})


def test_rmsd_is_the_root_of_the_mean_over_atoms():
    residual = torch.tensor([[3.0, 0, 0], [0, 0, 1], [1, 1, 1]])
    found = chain_rmsd(residual, graph_of(2, 1))
    assert torch.allclose(found, torch.tensor([5.0, 3.0], dtype=torch.float64).sqrt())


def searched_rmsd(x, y):
    """The least rmsd of all rotations, by descent over quaternions from many starts."""
    x, y = x - x.mean(0), y - y.mean(0)
    generator = torch.Generator().manual_seed(0)
    quaternions = torch.randn(40, 4, generator=generator, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.LBFGS([quaternions], max_iter=200, line_search_fn="strong_wolfe")

    def squares():
        w, i, j, k = (quaternions / quaternions.norm(dim=-1, keepdim=True)).unbind(-1)
        rows = [
            [1 - 2 * (j * j + k * k), 2 * (i * j - k * w), 2 * (i * k + j * w)],
            [2 * (i * j + k * w), 1 - 2 * (i * i + k * k), 2 * (j * k - i * w)],
            [2 * (i * k - j * w), 2 * (j * k + i * w), 1 - 2 * (i * i + j * j)],
        ]
        turns = torch.stack([torch.stack(row, -1) for row in rows], -2)
        return (x @ turns.transpose(-1, -2) - y).square().sum((-1, -2))

    def closure():
        optimizer.zero_grad()
        total = squares().sum()
        total.backward()
        return total

    optimizer.step(closure)
    return float((squares().detach().min() / len(x)).sqrt())


def test_superposed_rmsd_is_the_least_of_all_rotations():
    """Of ordinary pairs, of a turned and shifted copy (0), and of a mirror image (not 0)."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    turned = x @ orthogonal(5).T + torch.tensor([3.0, -2.0, 1.0])
    mirrored = x * torch.tensor([1.0, 1.0, -1.0])
    found = superposed_rmsd(
        torch.cat([x, x, x]), torch.cat([y, turned, mirrored]), graph_of(7, 7, 7)
    )
    assert found[0] == pytest.approx(searched_rmsd(x, y), abs=1e-6)
    assert found[1] == pytest.approx(0, abs=1e-6)
    assert found[2] == pytest.approx(searched_rmsd(x, mirrored), abs=1e-6) and found[2] > 0.1


def test_the_loss_is_in_units_of_the_noise():
    generator = torch.Generator().manual_seed(0)
    target, guess = 0.3 * torch.randn(2, 5, 3, generator=generator)
    batch = batch_of(torch.zeros(5, 3), target, 3, 2)
    loss, parts = DenoisingTask(0.3).loss(lambda batch: {"displacement": guess}, batch)
    assert torch.allclose(loss, ((guess - target) ** 2).mean() / 0.3**2)
    rmsd = [((guess - target)[part] ** 2).sum(-1).mean().sqrt() for part in (slice(3), slice(3, 5))]
    assert float(parts["rmsd"]) == pytest.approx(float(sum(rmsd)) / 2, rel=1e-6)
    assert DenoisingTask(0.3).samples(batch) == 5, "the loss is a mean over atoms"


def test_errors_are_of_chains_and_before_and_after():
    """Three chains in two batches; the network goes half the way, so errors are halved."""
    generator = torch.Generator().manual_seed(2)
    positions, target = torch.randn(2, 9, 3, generator=generator)
    batches = [
        batch_of(positions[:7], target[:7], 4, 3),
        batch_of(positions[7:], target[7:], 2),
    ]
    task = DenoisingTask(0.5)
    result = task.evaluate(
        lambda batch: {"displacement": batch.labels["displacement"] / 2}, batches
    )
    chains = [target[:4], target[4:7], target[7:]]
    before = [float(chain.square().sum(-1).mean().sqrt()) for chain in chains]
    noised = result.baselines["noised"]
    assert noised["rmsd"] == pytest.approx(np.mean(before), rel=1e-6)
    assert noised["rmsd_median"] == pytest.approx(np.median(before), rel=1e-6)
    for name in ("rmsd", "rmsd_median"):
        assert result.metrics[name] == pytest.approx(noised[name] / 2, rel=1e-6)
    assert result.metrics["superposed_rmsd"] < result.metrics["rmsd"]
    assert np.array_equal(result.pairs["displacement"][1], target.numpy())

    rows = task.table(result)
    assert [row["row"] for row in rows] == ["model", "noised"]
    assert rows[0]["rmsd (A)"] == result.metrics["rmsd"]
    assert task.selection(Evaluation({"rmsd": 0.25})) == 0.25


def test_graphs_are_those_of_the_network_where_it_has_options_of_them():
    data = {"cutoff": 6.0, "max_hops": 3}
    assert graph_settings(EasyDict(model={}, data=data)) == data
    own = EasyDict(model={"cutoff": 4.0}, data={"max_hops": 3})
    assert graph_settings(own) == {"cutoff": 4.0, "max_hops": 3}
    with pytest.raises(ValueError, match="graphs of backbones need --cutoff, got none"):
        graph_settings(EasyDict(model={"cutoff": None}, data={"max_hops": 3}))
