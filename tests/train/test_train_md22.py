"""Laws of the comparison of near field and hybrid: equal splits and settings, one table, resume."""

import shutil

import pytest

from farfield.common import checkpoint
from farfield.train import evaluate, train_md22
from farfield.train.tasks import near_far_comparison
from tests.support.md_data import SMALL, config_for, make_data
from tests.support.molecule_data import random_structures
from tests.support.run_results import results_of


def run(folder, data, *arguments):
    train_md22.main(["--run-dir", str(folder), "--data-path", str(data), *SMALL, *arguments])
    return results_of(folder)


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "run"
    return folder, run(folder, data, "--compare", "--epochs", "2")


def test_each_row_is_a_run_of_its_own_with_equal_settings(compared, data, tmp_path):
    folder, results = compared
    near, both = results["test"]
    assert (near["row"], near["schedule"], both["row"], both["schedule"]) == (
        "near",
        "first-order1",
        "near+far",
        "hybrid-first-order1",
    )
    assert (
        near["weights"] < both["weights"]
        and near["steps"] == both["steps"]
        and near["cpu_ms_per_step"] > 0
    )
    configs = [results_of(folder / row["row"])["config"] for row in results["test"]]
    different = {
        (s, k)
        for s, part in configs[0].items()
        if isinstance(part, dict)
        for k in part
        if part[k] != configs[1][s][k]
    }
    assert (
        different == {("run", "run_dir"), ("model", "schedule")}
        and configs[0]["measured"] == configs[1]["measured"]
    )
    alone = run(tmp_path / "alone", data, "--epochs", "2", "--schedule", "first-order1")["test"][0]
    assert (
        near["force_mae (meV/A)"] == alone["force_mae"]
        and near["energy_mae (meV)"] == alone["energy_mae"]
    )


def test_a_comparison_goes_on_where_it_was_stopped(compared, data, tmp_path):
    folder, results = compared
    assert run(tmp_path / "run", data, "--compare", "--epochs", "2", "--pause-after", "1") is None
    assert not (tmp_path / "run" / "near+far").exists()
    train_md22.main(["--run-dir", str(tmp_path / "run"), "--resume"])
    again = results_of(tmp_path / "run")
    assert again["test_of_run"] == results["test_of_run"]


def test_an_overwritten_comparison_leaves_nothing_old_to_resume(compared, data, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(compared[0], folder)
    assert (folder / "near+far" / checkpoint.LAST).exists()
    run(folder, data, "--compare", "--epochs", "2", "--overwrite", "--pause-after", "1")
    assert (folder / "near" / checkpoint.LAST).exists() and not (
        folder / "near+far" / checkpoint.LAST
    ).exists()


def test_a_run_of_a_comparison_can_be_evaluated_alone(compared):
    folder, results = compared
    assert (
        evaluate.evaluate_checkpoint(folder / "near+far" / checkpoint.BEST)
        == results["test_of_run"][1]
    )


NEAR = {
    "hybrid-first-order": ["first-order"] * 2,
    "hybrid-first-order1+hybrid-second-order1": ["first-order", "second-order"],
    "first-order2+fmm-node": ["first-order"] * 2,
}


@pytest.mark.parametrize("schedule, near", NEAR.items())
def test_the_near_field_of_a_schedule(data, schedule, near):
    config = config_for(data, "--schedule", schedule, "--layers", "2", script=train_md22.SCRIPT)
    assert near_far_comparison.near_only(config).split("+") == [f"{name}1" for name in near]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--schedule", "first-order"],
            "--compare needs a near and a far field, --schedule first-order has only one of them",
        ),
        (["--schedule", "fmm-node"], "--schedule fmm-node has only one of them"),
        (["--seeds", "2"], "--compare trains one seed, --seeds is 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(data, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", data, "--compare", *arguments)
    assert not (tmp_path / "run").exists()


def test_batches_are_as_large_in_atoms_whatever_the_molecule(tmp_path):
    """Unless a limit is named: 72 atoms, at least one structure. A limit of atoms alone is the only
    one; other data set none.
    """
    for atoms, expected in ((9, 8), (42, 2), (60, 1), (148, 1)):
        folder = make_data(
            tmp_path / str(atoms), random_structures((atoms,) * 4, elements=(1, 6)), sizes=(2, 1, 1)
        )
        template = tmp_path / f"{atoms}.yaml"
        template.write_text(
            f"task: md22\nmeasured: [batch_size, forces]\nbatch_size: {expected + 7}\nforces: "
            "none\nlr: 0.5"
        )
        named = {
            ("--batch-size", "3"): 3,
            (): expected,
            ("--max-atoms-per-batch", "600"): 2,
            ("--config", str(template)): expected,
        }
        for arguments, wanted in named.items():
            config = train_md22.SCRIPT.read_options(["--data-path", str(folder), *arguments])
            assert config.training.batch_size == wanted
