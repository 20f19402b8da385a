"""Number types that networks compute with, by name."""

import torch

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
