"""The comparison on N-body: what is read of finished runs, and the public program as a network."""

import dataclasses
import json

import pytest
import torch
from easydict import EasyDict

from benchmarks.installed_equiformer import PACKAGE
from benchmarks.rivals import compare_equiformer as compare
from farfield.common import plugins
from farfield.models.factory import build_model
from tests.support.registries import restore_registries, saved_registries
from tests.support.small_equiformer import particles_batch


def write_run(folder, x, score):
    """A finished run whose second validation is the best."""
    history = [
        {"x": 9.0, "v": 9.0, "selection": score + 1},
        {"x": x, "v": 2 * x, "selection": score},
        {"x": 8.0, "v": 8.0, "selection": score + 2},
    ]
    test = [
        {"row": "Linear", "x_mean": 7.0, "v_mean": 7.0},
        {"row": "model", "x_mean": 3 * x, "v_mean": 4 * x},
    ]
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(
        json.dumps(
            {"history": history, "test": test, "parameters": 5, "steps": 6, "cpu_minutes": 2.0}
        )
    )


def test_the_setting_with_the_best_validation_goes_on_to_the_test(tmp_path, monkeypatch, capsys):
    """Runs that are finished are read, never started again."""
    monkeypatch.setattr(compare, "equiformer_is_installed", lambda: True)
    (tmp_path / "nbody_train.npz").touch()
    runs, scores = tmp_path / "runs", {("1e-3", "2"): 0.9, ("1e-3", "4"): 0.8}
    scores |= {("3e-3", "2"): 0.5, ("3e-3", "4"): 0.7}
    for (rate, depth), score in scores.items():
        write_run(runs / f"search_0.5_{rate}_{depth}", 0.1 * score, score)
    for folder, x in [("farfield", 1e-3), ("farfield_no_waypoints", 2e-3), (PACKAGE, 3e-3)]:
        write_run(runs / f"{folder}_2_0", x, 0.1)

    target = tmp_path / "rows.json"
    arguments = ["--data-path", str(tmp_path), "--run-dir", str(runs), "--json", str(target)]
    compare.main(arguments)
    found = json.loads(target.read_text())
    assert [row["score"] for row in found["search"]] == [0.5, 0.7, 0.8, 0.9]
    assert found["rows"][1]["settings"] == "--lr 3e-3 --depth 2"
    assert found["rows"][0]["val_x"] == 1e-3 and found["rows"][1]["x"] == pytest.approx(9e-3)
    assert "0.009" in capsys.readouterr().out


def test_missing_data_and_a_missing_package_are_refused_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no nbody_train.npz .*preprocess_nbody"):
        compare.main(["--data-path", str(tmp_path), "--run-dir", str(tmp_path / "runs")])
    (tmp_path / "nbody_train.npz").touch()
    monkeypatch.setattr(compare, "equiformer_is_installed", lambda: False)
    with pytest.raises(ValueError, match="equiformer-pytorch is not installed: run `make bench`"):
        compare.main(["--data-path", str(tmp_path), "--run-dir", str(tmp_path / "runs")])
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def public_network():
    """The public program as ``--import`` gives it, and a batch of systems of equal size."""
    pytest.importorskip("equiformer_pytorch")
    state = saved_registries()
    arguments = compare.PUBLIC[: compare.PUBLIC.index("--waypoint-weight")]
    options = EasyDict(zip(arguments[::2], arguments[1::2], strict=True))
    plugins.import_file(options["--import"])
    torch.manual_seed(0)
    network = build_model({"name": options["--model"], "depth": 1, "dim": 8, "horizon": 0.5})
    yield network, particles_batch((4, 4), torch.Generator().manual_seed(1))
    restore_registries(state)


def test_the_public_program_is_an_equivariant_network(public_network):
    network, batch = public_network
    out = network(batch)
    assert out["displacement"].shape == out["velocity_change"].shape == (8, 3)

    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    turn = (turn * torch.linalg.det(turn)).to(batch.positions.dtype)
    velocities = batch.node_features["velocities"] @ turn.T
    turned = dataclasses.replace(
        batch,
        positions=batch.positions @ turn.T + 1.0,
        node_features={**batch.node_features, "velocities": velocities},
    )
    for name, found in network(turned).items():
        torch.testing.assert_close(found, out[name] @ turn.T, rtol=1e-3, atol=1e-4)


def test_systems_of_different_sizes_are_refused(public_network):
    network, _ = public_network
    batch = particles_batch((4, 3), torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match="systems with the same number of bodies"):
        network(batch)


def test_without_interaction_bodies_fly_on(public_network):
    network, batch = public_network
    with torch.no_grad():
        network.vectors.weight.zero_()
    out = network(batch)
    torch.testing.assert_close(out["displacement"], 0.5 * batch.node_features["velocities"])
    assert out["velocity_change"].abs().max() == 0
