"""Equivariant attention on molecules and materials with an exact far field.

    import farfield

    model = farfield.load("runs/ethanol/checkpoint_best.pt")              # predict(structures)
    atoms.calc = farfield.FarfieldCalculator("runs/ethanol/checkpoint_best.pt")
    network = farfield.build_model({"name": "e2former"})
    layers = farfield.Equiformer(num_tokens=24, dim=64)                   # (tokens, coors, mask)
    data = farfield.MoleculeDataset.open("data/ethanol_sample", "train")

These names are imported when they are asked for; everything else has its own place,
``farfield.models``, ``farfield.train``, ... The folders beside this file are relative links to the
top-level folders of the repository, so that all code has one import name wherever it runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farfield.dataloader.datasets.potential_data import MoleculeDataset
    from farfield.models.factory import build_model
    from farfield.models.networks.equiformer import Equiformer
    from farfield.simulate.calculator import FarfieldCalculator
    from farfield.train.prediction import load

__version__ = "0.1.0"
__all__ = [
    "Equiformer",
    "FarfieldCalculator",
    "MoleculeDataset",
    "__version__",
    "build_model",
    "load",
]

_PLACES = {
    "load": "farfield.train.prediction",
    "FarfieldCalculator": "farfield.simulate.calculator",
    "build_model": "farfield.models.factory",
    "Equiformer": "farfield.models.networks.equiformer",
    "MoleculeDataset": "farfield.dataloader.datasets.potential_data",
}


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module 'farfield' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
