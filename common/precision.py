"""Number types that networks compute with, by name."""

import torch

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}

# float32, but for products of linear maps while training (models/layers/rounded_products.py)
MIXED = "bf16-mixed"
TRAINING_PRECISIONS = {**PRECISIONS, MIXED: torch.float32}


def precision_of_evaluation(name: str) -> str:
    """Precision in which a network is evaluated that was trained in the precision ``name``."""
    return "float32" if name == MIXED else name
