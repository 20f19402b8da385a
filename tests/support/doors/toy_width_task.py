"""A task of one file that decides an option of its network, and has an option of its evaluation."""

from farfield.common.task_registry import TASKS
from farfield.common.trained import network_options
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.prepared_folder import load_statistics
from farfield.models.factory import build_model
from farfield.train.data_order import ordered_batches, shuffled_batches
from farfield.train.run_options import add_batch_limits
from farfield.train.tasks.task import Evaluation, Parts, Task

FACTORS = {"eV": 1.0, "meV": 1000.0}


@TASKS.register("energies_alone")
class EnergiesAlone(Task):
    """Energies of a network whose width is twice ``--half-width``."""

    predicts = "potential"
    default_network = "free_pairs"
    fixed_options = frozenset({"width"})
    training_defaults = {"epochs": 2, "batch_size": 4}
    evaluation_options = {"unit": tuple(FACTORS)}
    max_evaluation_atoms = 9

    curves = ("energy_mae",)
    units = {"energy_mae": "eV"}

    @classmethod
    def add_options(cls, parser):
        data = parser.section("data", "what is learned from")
        data.add("--data-path", str, "data/structures", help="folder of preprocess_structures")
        data.add("--half-width", float, 2.0, above=0, help="half the width, Angstrom")
        add_batch_limits(data)

    @classmethod
    def restore(cls, config):
        return build_model({**network_options(config), "width": 2 * config.data.half_width})

    @classmethod
    def build(cls, config):
        model = cls.restore(config)
        model.set_reference(load_statistics(config.data.data_path).references)
        train, val, test = (cls.open(config, split) for split in ("train", "val", "test"))
        evaluated = [ordered_batches(part, cls.max_evaluation_atoms) for part in (val, test)]
        return Parts(model, cls(), shuffled_batches(train, config), *evaluated)

    @classmethod
    def evaluation(cls, config, split, model, unit="eV"):
        return cls(unit), ordered_batches(cls.open(config, split), cls.max_evaluation_atoms)

    @classmethod
    def open(cls, config, split):
        return MoleculeDataset.open(config.data.data_path, split)

    def __init__(self, unit="eV"):
        self.unit = unit

    def loss(self, model, batch):
        error = (model(batch)["energy"] - batch.labels["energy"]).abs().mean()
        return error, {"energy": error.detach()}

    def evaluate(self, model, batches):
        errors = [
            error
            for batch in batches
            for error in (model(batch)["energy"] - batch.labels["energy"]).abs().tolist()
        ]
        return Evaluation({"energy_mae": FACTORS[self.unit] * sum(errors) / len(errors)})

    def selection(self, evaluation):
        return evaluation.metrics["energy_mae"]

    def table(self, evaluation):
        return [{"row": "model", **evaluation.metrics}]
