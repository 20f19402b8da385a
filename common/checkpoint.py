"""Checkpoints: all that a run needs to go on bit-identically, and an evaluation to start.

A file holds plain numbers, strings, lists, dicts and tensors only, so it loads with
``weights_only=True``. It is written under another name, flushed and renamed: at any moment the name
points to a whole checkpoint. Reading verifies a checksum of the whole file (``storage/seals.py``)
and that of every record in it. Files of earlier formats are read too: see
``checkpoint_formats.py``.
"""

import functools
import pickle
import platform
import random
import zipfile
from importlib import metadata

import numpy as np
import torch
from torch import Tensor, nn

from farfield.common.checkpoint_formats import FIRST_SEALED, FORMAT, READABLE, converted
from farfield.common.revision import source_revision
from farfield.common.shipped import find_checkpoint
from farfield.dataloader.storage.files import atomic_write
from farfield.dataloader.storage.seals import check_seal, seal
from farfield.models.graph_ops import used_kernels

PACKAGES = ("torch", "dgl", "e3nn", "numpy", "farfield")
NOT_INSTALLED = "not installed"
LAST, BEST = "checkpoint_last.pt", "checkpoint_best.pt"
MAYBE = (dict, type(None))
ENTRIES = {
    "config": dict,
    "weights": dict,
    "averaged": MAYBE,
    "optimizer": dict,
    "schedule": dict,
    "position": dict,
    "random": dict,
    "data": str,
    "history": list,
    "best": MAYBE,
    "versions": dict,
}
SECTIONS = ("run", "model", "training")  # in every configuration


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of python and of the packages that decide the numbers."""
    versions = {"python": platform.python_version()}
    return versions | {name: package_version(name) for name in PACKAGES}


def package_version(name: str) -> str:
    """Version of an installed package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return NOT_INSTALLED


def recorded_versions() -> dict[str, str]:
    """Versions for the record of a run, its source, and the kernels that have computed its sums.

    An installed DGL computes nothing where it cannot be imported, or where all batches are small.
    """
    return package_versions() | {"revision": source_revision(), "kernels": used_kernels()}


def random_states(device: torch.device) -> dict:
    """States of the generators of python, numpy, torch and the device."""
    version, words, gauss = random.getstate()
    kind, key, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the global one

    # plain numbers and tensors, so that the checkpoint loads with weights_only
    key = torch.from_numpy(key.astype(np.int64))
    states = {
        "python": [version, torch.tensor(words), gauss],
        "numpy": [kind, key, int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: dict, device: torch.device) -> None:
    """Inverse of `random_states`."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, key, *rest = states["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def save_checkpoint(path, content: dict) -> None:
    """Write ``content`` (see `Trainer.state`) atomically; ``OSError`` where the disk is full."""
    with atomic_write(path) as temporary:
        try:
            torch.save({"format": FORMAT, **content}, temporary)
            seal(temporary)
        except RuntimeError as error:  # torch's writer hides the number of the error
            raise OSError(
                f"{path} cannot be written ({_short(error)}): is the disk full? free some space "
                "and continue with --resume"
            ) from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def read_checkpoint(path, device="cpu") -> dict:
    """Content of a checkpoint: a file, or the name of a shipped one.

    Raises ``FileNotFoundError`` when there is none, ``ValueError`` when the file is damaged, no
    checkpoint, or of an unknown format.
    """
    path = find_checkpoint(path)
    if path.is_dir():
        raise ValueError(f"checkpoint {path} is a folder; give {path / BEST}")
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist; give the {BEST} or {LAST} of a run folder"
        )
    try:
        sealed = check_seal(path)
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"record {damaged} has a wrong checksum")
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        reason = _short(error)
        if isinstance(error, pickle.UnpicklingError):
            reason = "it holds more than numbers"
        raise ValueError(
            f"checkpoint {path} is damaged or not a checkpoint ({reason}); use the other "
            "checkpoint of the run or train again"
        ) from None

    if not isinstance(content, dict) or content.get("format") not in READABLE:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        formats = " and ".join(map(str, READABLE))
        raise ValueError(
            f"checkpoint {path} has format {found}, this version reads {formats}; train again or "
            "use the version that wrote it"
        )
    if content["format"] >= FIRST_SEALED and not sealed:
        raise ValueError(
            f"checkpoint {path} is damaged (its checksum is missing); use the other checkpoint of "
            "the run or train again"
        )
    return converted(content)


def read_run(path, device="cpu") -> dict:
    """Content of a checkpoint of a run with all its parts; errors as in `read_checkpoint`."""
    content = read_checkpoint(path, device)

    for name, kind in ENTRIES.items():
        if name not in content or not isinstance(content[name], kind):
            raise ValueError(
                f"checkpoint {path} is not of a run: it has no {name}; give the {BEST} or {LAST} "
                "of a run folder"
            )

    for name in ("weights", "averaged"):
        for key, value in (content[name] or {}).items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise ValueError(
                    f"checkpoint {path} is not of a run: {key!r} in its {name} is no weight; give "
                    "another, or train again"
                )

    for section in SECTIONS:
        if not isinstance(content["config"].get(section), dict):
            raise ValueError(
                f"checkpoint {path} is not of a run: its config has no section {section}; give "
                "another, or train again"
            )
    return content


def load_weights(model: nn.Module, weights: dict, path) -> None:
    """Strict ``load_state_dict`` whose error is one line naming the first key that differs."""
    own = model.state_dict()

    # the first weight of either side that differs
    for key in [*own, *weights]:
        if key not in weights:
            difference = f"it has no weight {key!r}"
        elif key not in own:
            difference = f"its weight {key!r} has no place here"
        elif own[key].shape != weights[key].shape:
            there, here = tuple(weights[key].shape), tuple(own[key].shape)
            difference = f"its weight {key!r} has shape {there}, here {here}"
        else:
            continue

        raise ValueError(
            f"checkpoint {path} is of another model: {difference}; build the model from the config "
            "inside the checkpoint, or train again"
        )
    model.load_state_dict(weights, strict=True)


def evaluation_weights(content: dict) -> dict:
    """The averaged weights where averaging was on, else the trained ones."""
    if content["averaged"] is None:
        return content["weights"]
    return {
        key.removeprefix("module."): value
        for key, value in content["averaged"].items()
        if key != "n_averaged"
    }
