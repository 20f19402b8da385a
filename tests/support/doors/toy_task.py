"""A task of one file: forces alone, by their mean square error."""

from farfield.common.task_registry import TASKS
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.prepared_folder import load_statistics, stored_cutoff
from farfield.train.data_order import ordered_batches, shuffled_batches
from farfield.train.run_options import add_batch_limits
from farfield.train.tasks.task import Evaluation, Parts, Task


@TASKS.register("forces_alone")
class ForcesAlone(Task):
    """Forces of any potential."""

    predicts = "potential"
    default_network = "e2former"
    measured_options = frozenset({"cutoff"})
    training_defaults = {"epochs": 2, "batch_size": 4}

    curves = ("force_mse",)
    units = {"force_mse": "eV^2/A^2", "forces": "eV/A"}

    @classmethod
    def add_options(cls, parser):
        data = parser.section("data", "what is learned from")
        data.add("--data-path", str, "data/structures", help="folder of preprocess_structures")
        add_batch_limits(data)
        loss = parser.section("loss", "what is minimised")
        loss.add("--weight", float, 1.0, above=0, help="factor of the loss")

    @classmethod
    def presets(cls, values):
        return {"cutoff": stored_cutoff(values["data_path"])}

    @classmethod
    def build(cls, config):
        model = cls.restore(config)
        model.set_reference(load_statistics(config.data.data_path).references)
        datasets = {split: cls.open(config, split) for split in ("train", "val", "test")}
        train = shuffled_batches(datasets["train"], config)
        val, test = (ordered_batches(datasets[split], 100) for split in ("val", "test"))
        return Parts(model, cls(config.loss.weight), train, val, test)

    @classmethod
    def evaluation(cls, config, split, model):
        return cls(config.loss.weight), ordered_batches(cls.open(config, split), 100)

    @classmethod
    def open(cls, config, split):
        return MoleculeDataset.open(config.data.data_path, split, cutoff=config.model.get("cutoff"))

    def __init__(self, weight):
        self.weight = weight

    def loss(self, model, batch):
        error = (model(batch)["forces"] - batch.labels["forces"]).square().mean()
        return self.weight * error, {"force_mse": error.detach()}

    def evaluate(self, model, batches):
        total, count, pairs = 0.0, 0, []
        for batch in batches:
            found, true = model(batch)["forces"], batch.labels["forces"]
            total += float((found - true).square().sum())
            count += true.numel()
            pairs.append((found.numpy(), true.numpy()))
        return Evaluation({"force_mse": total / count}, pairs={"forces": pairs[0]})

    def selection(self, evaluation):
        return evaluation.metrics["force_mse"]
