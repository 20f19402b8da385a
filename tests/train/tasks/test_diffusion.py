"""Laws of the diffusion task: its loss, its objectives, its network and process."""

import pytest
import torch
from easydict import EasyDict

from farfield.common.trained import diffusion_process
from farfield.models.diffusion.process import DiffusionProcess, centred_noise
from farfield.models.factory import network_names
from farfield.models.graph_ops import broadcast_nodes
from farfield.models.network import DIFFUSION
from farfield.train.tasks.diffusion import OBJECTIVES, DiffusionTask, check_objective
from tests.support.small_diffusion import BACKBONES, SE3, molecules, noised


def config_of(objective="joint", model=SE3, detach_time=False):
    return EasyDict(
        model=dict(model),
        loss={"objective": objective, "detach_time": detach_time},
        data={"noise_schedule": "cosine", "diffusion_steps": 50},
    )


def labelled(batch):
    """The batch with noise and times for labels."""
    generator = torch.Generator().manual_seed(1)
    time = torch.rand(batch.num_graphs, generator=generator, dtype=torch.float64)
    batch.labels.update(noise=centred_noise(batch.graph, generator), time=time)
    return batch


@pytest.mark.parametrize(
    "objective, shares", [("noise", (1, 0)), ("time", (0, 1)), ("joint", (0.9, 0.1))]
)
def test_the_loss_weighs_the_errors_as_published(objective, shares):
    batch = labelled(molecules())
    noise = batch.labels["noise"] + 0.3
    time = broadcast_nodes(batch.graph, batch.labels["time"]) - 0.2
    task = DiffusionTask(objective)
    loss, parts = task.loss(lambda batch: {"noise": noise, "time": time}, batch)
    expected = {"noise_mse": 0.09, "time_mse": 0.04}
    assert float(loss) == pytest.approx(shares[0] * 0.09 + shares[1] * 0.04, rel=1e-6)
    for name, part in parts.items():
        assert float(part) == pytest.approx(expected[name], rel=1e-6)
    assert set(parts) == {f"{name}_mse" for name in OBJECTIVES[objective]}
    assert task.samples(batch) == batch.num_nodes, "the loss is a mean over atoms"


def test_an_evaluation_over_batches_is_the_loss_over_all():
    batch = labelled(molecules())
    task = DiffusionTask("joint")

    def model(batch):
        return {"noise": batch.labels["noise"] / 2, "time": batch.positions[:, 0]}

    result = task.evaluate(model, batch.split())
    assert task.selection(result) == pytest.approx(float(task.loss(model, batch)[0]), rel=1e-12)
    constant = result.baselines["constant"]
    assert result.metrics["noise_mse"] == pytest.approx(constant["noise_mse"] / 4, rel=1e-12)
    assert result.metrics["loss"] == result.loss != constant["loss"]
    found, true = result.pairs["time"]
    assert found.shape == true.shape == (4,) and found.min() >= 0 and found.max() <= 1
    assert [row["row"] for row in task.table(result)] == ["model", "constant"]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_network_has_the_heads_of_the_objective(objective, backbone):
    model = DiffusionTask.restore(config_of(objective, BACKBONES[backbone]))
    assert set(model.outputs()) == set(OBJECTIVES[objective])
    assert type(model).predicts == DIFFUSION and model.config["name"] in network_names(DIFFUSION)


@pytest.mark.parametrize("detach", [False, True])
def test_noise_teaches_the_time_head_unless_it_is_detached(detach):
    model = DiffusionTask.restore(config_of(detach_time=detach)).double()
    process = DiffusionProcess()
    batch = noised(process, molecules(), torch.tensor([10, 300, 600, 900]))
    model(batch)["noise"].square().sum().backward()
    slopes = [weight.grad for weight in model.heads.time.parameters()]
    assert all(slope is None or not slope.any() for slope in slopes) == detach


def test_the_process_of_a_run_is_in_its_configuration():
    options = diffusion_process(config_of()).options
    assert (options.schedule, options.time_steps) == ("cosine", 50)
    with pytest.raises(ValueError, match="a run of the task 'nbody' has no diffusion process"):
        diffusion_process(EasyDict(task="nbody", data={"noise": 1}))


def test_options_that_contradict_the_objective_are_refused():
    message = "--detach-time is for --objective joint, got --objective time; leave it out"
    with pytest.raises(ValueError, match=message):
        check_objective(config_of("time", detach_time=True))
    told = {**SE3, "condition": "time"}
    with pytest.raises(ValueError, match="time that --objective joint predicts; leave time out"):
        check_objective(config_of("joint", told))
    check_objective(config_of("noise", told))
