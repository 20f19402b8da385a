"""N-body data set: windows (start, target) of simulations as batches of complete graphs.

A folder holds ``nbody_{train,test,val}.npz`` (made by preprocess.preprocess_nbody) with
``positions`` and ``velocities`` (simulations, frames, bodies, 3), ``charges`` (simulations,
bodies), for springs ``springs`` (simulations, bodies, bodies), all float32 and dimensionless, and
``metadata`` (a json text: protocol, seed, time step, box). Frames are 0.1 apart. A window with
horizon h starts at frame t and asks for x_{t+h} - x_t and v_{t+h} - v_t. Three rules say which
windows a data set has:

    first   t = 0, one window per simulation (protocol "1000 steps")
    spread  t = int((frames - h) / simulations * index), one per simulation (protocol "500 steps")
    all     every t in 0 .. frames - h - 1

Training and test simulations and the windows are the same as in the public programs (see
dataloader.sources.nbody_simulation); the validation split continues their stream of random numbers.
A batch of any windows is one gather: 0.3 ms for 128 simulations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from farfield.dataloader.commands import called_as
from farfield.dataloader.prepared_folder import check_finished
from farfield.dataloader.sources.nbody_simulation import FRAME_TIME, simulate_nbody
from farfield.dataloader.storage import files
from farfield.dataloader.storage.basis_cache import BasisCache, why_unusable
from farfield.dataloader.storage.edge_layout import COMPLETE
from farfield.dataloader.storage.files import REBUILD_HINT
from farfield.models.batch import AtomBatch
from farfield.models.choices import check_choice
from farfield.models.complete_graphs import complete_edges, complete_graphs

__all__ = [
    "DRAW_ORDER",
    "STARTS",
    "NBodyDataset",
    "WindowBatchSampler",
    "baseline_errors",
    "cache_folder",
    "read_nbody",
    "simulate_nbody",
]

MANIFEST = "nbody_manifest.json"  # settings, and SHA-256 of the files; data made by hand lack it
DRAW_ORDER = ("train", "test", "val")  # of the random numbers of the splits
MAKER = called_as("preprocess.preprocess_nbody")
HINT = f"make the data with `{MAKER} --out FOLDER` (--rebuild replaces what is there)"

# name -> (simulations, windows that fit into one) -> start frames (simulations, starts of one
# simulation)
STARTS: dict[str, Callable[[int, int], np.ndarray]] = {
    "first": lambda simulations, fitting: np.zeros((simulations, 1), dtype=np.int64),
    "spread": lambda simulations, fitting: (
        (fitting / simulations * np.arange(simulations)).astype(np.int64).reshape(-1, 1)
    ),
    "all": lambda simulations, fitting: np.tile(np.arange(fitting), (simulations, 1)),
}


def split_file(folder: str | Path, split: str) -> Path:
    """File of a split; ``ValueError`` for an unknown split."""
    check_choice("split", split, DRAW_ORDER)
    return Path(folder) / f"nbody_{split}.npz"


def cache_folder(folder: str | Path, split: str) -> Path:
    """Basis cache of a split."""
    return split_file(folder, split).with_name(f"nbody_{split}_basis")


def read_nbody(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and metadata of one file, checked.

    ``FileNotFoundError`` for a missing file; ``ValueError`` for a damaged one, for shapes that do
    not fit together, and for values that are not finite, with the array and the simulation.
    """
    content = files.read_npz(path, ("positions", "velocities", "charges", "metadata"), HINT)
    metadata = _read_metadata(path, str(content.pop("metadata")))
    if metadata.get("dynamics") == "springs":
        content |= files.read_npz(path, ("springs",), HINT)
    shape = content["positions"].shape
    if len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        raise ValueError(
            f"{path}: positions must have the shape (simulations, frames, bodies, 3), got "
            f"{shape}; {HINT}"
        )

    simulations, _, bodies, _ = shape
    expected = {
        "positions": shape,
        "velocities": shape,
        "charges": (simulations, bodies),
        "springs": (simulations, bodies, bodies),
    }
    for name, values in content.items():
        if values.shape != expected[name]:
            raise ValueError(
                f"{path}: {name} must have the shape {expected[name]} for positions {shape}, "
                f"got {values.shape}; {HINT}"
            )
        content[name] = _single_precision(path, name, values)
    return content, metadata


def _single_precision(path: str | Path, name: str, values: np.ndarray) -> np.ndarray:
    """The values in float32; ``ValueError`` unless they are finite there."""
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"{path}: {name} must be floating-point, got {values.dtype}; {HINT}")

    # float64 beyond float32 becomes infinite, and is found below
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{path}: {name} of simulation {int(np.argmin(finite))} are not finite in "
            f"float32; {HINT}"
        )
    return values


def _read_metadata(path: str | Path, text: str) -> dict:
    try:
        metadata = files.parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged (metadata: {error}); {HINT}") from None
    if not isinstance(metadata, dict):
        raise ValueError(
            f"{path} is damaged (metadata: {type(metadata).__name__}, not a dictionary); {HINT}"
        )

    frame_time = metadata.get("frame_time", FRAME_TIME)
    if frame_time != FRAME_TIME:
        raise ValueError(
            f"{path}: frames must be {FRAME_TIME} apart, its metadata say {frame_time!r}; {HINT}"
        )
    return metadata


class NBodyDataset:
    """Windows of one split; ``dataset[indices]`` is a batch.

    Arguments
        folder      holds nbody_{train,test,val}.npz
        split       "train", "test" or "val"
        horizon     frames from start to target, 1 .. frames - 1
        starts      which windows: a name in :data:`STARTS`
        cache       opened basis cache of this split (:meth:`open_cache` opens the one in the
                    folder); None: the model computes the basis
        waypoints   K equally spaced later frames, the last one the target, for labels["waypoints"];
                    K must divide the horizon, 0: none
        transform   batch -> batch, e.g. augmentation or noise; the cache is then of no use and not
                    read
        position_gradient   positions require a gradient; the cache is then not read either

    Windows are numbered simulation by simulation. A batch has positions (nodes, 3), node_features
    velocities (nodes, 3) and charges (nodes,), with springs edge_features springs (edges, 1),
    labels displacement and velocity_change (nodes, 3) and waypoints (nodes, K, 6): displacement and
    velocity change since the start. Raises ``ValueError`` and ``FileNotFoundError`` with one line.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        horizon: int,
        starts: str = "first",
        cache: BasisCache | None = None,
        waypoints: int = 0,
        transform: Callable[[AtomBatch], AtomBatch] | None = None,
        position_gradient: bool = False,
    ):
        self.folder, self.split, self.path = Path(folder), split, split_file(folder, split)
        check_choice("starts", starts, STARTS)

        # positions, velocities (simulations, frames, bodies, 3)
        arrays, self.metadata = read_nbody(self.path)
        if (self.folder / MANIFEST).exists():
            check_finished(self.folder, self.path.name, HINT, MANIFEST)
        self.positions, self.velocities = arrays["positions"], arrays["velocities"]
        self.charges = arrays["charges"]
        self.springs = arrays.get("springs")
        self.num_simulations, self.num_frames, self.bodies, _ = self.positions.shape
        if not 1 <= horizon <= self.num_frames - 1:
            held = f"{self.path} has {self.num_frames} frames"
            raise ValueError(
                f"{held}: horizon must be in 1 .. {self.num_frames - 1} frames, got {horizon}; "
                f"shorten it, or {HINT}"
            )
        if waypoints < 0 or (waypoints and horizon % waypoints):
            raise ValueError(
                f"waypoints must divide the horizon of {horizon} frames (0: none), got {waypoints}"
            )

        self.horizon, self.starts, self.waypoints = horizon, starts, waypoints
        self.transform, self.position_gradient = transform, position_gradient
        self.start_frames = STARTS[starts](self.num_simulations, self.num_frames - horizon)
        self.cache = cache
        self._cache_slot = None if cache is None else self._slots_of(cache)

    def _slots_of(self, cache: BasisCache) -> np.ndarray:
        """For every frame its place among the cached start frames, or -1."""
        if cache.data_hash != self.data_hash:
            raise ValueError(
                f"{cache.folder} belongs to other data than {self.path}; {REBUILD_HINT}"
            )

        # the cache has the start frames of every simulation, one after the other
        frames = cache.settings.selection.get("starts", ())
        known = all(0 <= frame < self.num_frames for frame in frames)
        if not known or len(cache) != len(frames) * self.num_simulations:
            raise ValueError(
                f"{cache.folder} holds {len(cache)} graphs of the start frames {list(frames)}, "
                f"{self.path} has {self.num_simulations} simulations of {self.num_frames} frames; "
                f"{REBUILD_HINT}"
            )
        slots = np.full(self.num_frames, -1)
        slots[list(frames)] = np.arange(len(frames))
        return slots

    @property
    def data_hash(self) -> str:
        """Identifies the positions, for the basis cache."""
        return files.array_checksum(self.positions)

    def open_cache(self, lmax: int, verify: str = "full") -> BasisCache:
        """Open the basis cache in the folder of the data and use it from now on.

        Arguments and errors as in :meth:`BasisCache.open`.
        """
        folder = cache_folder(self.folder, self.split)
        cache = BasisCache.open(
            folder, data_hash=self.data_hash, lmax=lmax, graph_rule=COMPLETE, verify=verify
        )
        self._cache_slot = self._slots_of(cache)
        self.cache = cache
        return cache

    def __len__(self) -> int:
        """Number of windows."""
        return self.start_frames.size

    @property
    def windows_per_simulation(self) -> int:
        return self.start_frames.shape[1]

    def windows(self, indices) -> tuple[np.ndarray, np.ndarray]:
        """Simulation and start frame (windows,) of the windows ``indices``.

        ``IndexError`` outside 0 .. len - 1.
        """
        indices = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(
                f"windows are 0 .. {len(self) - 1}, got {indices.min()} .. {indices.max()}"
            )
        simulation, place = np.divmod(indices, self.windows_per_simulation)
        return simulation, self.start_frames[simulation, place]

    def why_computed(self, indices=None) -> str | None:
        """Why the model computes the basis of these windows, or None if the cache has it.

        indices: of the windows (None: all).
        """
        if self.cache is None:
            return "no cache is open"
        frames = self.start_frames if indices is None else self.windows(indices)[1]
        cached = bool((self._cache_slot[frames] >= 0).all())
        return why_unusable(
            rows_cached=cached,
            augmented=self.transform is not None,
            position_gradient=self.position_gradient,
        )

    def __getitem__(self, indices: int | Sequence[int] | np.ndarray) -> AtomBatch:
        simulation, start = self.windows(indices)

        # (windows, bodies, 3) each
        positions = self.positions[simulation, start]
        velocities = self.velocities[simulation, start]
        change = self.change(simulation, start, self.horizon)
        labels = {
            "displacement": _nodes(change[..., :3]),
            "velocity_change": _nodes(change[..., 3:]),
        }
        if self.waypoints:
            stride = self.horizon // self.waypoints
            path = [
                self.change(simulation, start, step * stride)
                for step in range(1, self.waypoints + 1)
            ]
            labels["waypoints"] = _nodes(np.stack(path, axis=2))

        batch = AtomBatch(
            graph=complete_graphs(len(simulation), self.bodies),
            positions=_nodes(positions).requires_grad_(self.position_gradient),
            node_features={
                "velocities": _nodes(velocities),
                "charges": _nodes(self.charges[simulation]),
            },
            edge_features=self._edge_features(simulation),
            labels=labels,
            edge_basis=self._edge_basis(indices, simulation, start),
        )
        return batch if self.transform is None else self.transform(batch)

    def change(self, simulation: np.ndarray, start: np.ndarray, frames: int) -> np.ndarray:
        """Displacement and velocity change (windows, bodies, 6) over ``frames`` frames.

        simulation, start (windows,): simulation and first frame of each window.
        """
        changes = [
            values[simulation, start + frames] - values[simulation, start]
            for values in (self.positions, self.velocities)
        ]
        return np.concatenate(changes, axis=-1)

    def _edge_features(self, simulation: np.ndarray) -> dict[str, torch.Tensor]:
        if self.springs is None:
            return {}
        src, dst = (end.numpy() for end in complete_edges(self.bodies))
        return {"springs": torch.from_numpy(self.springs[simulation][:, src, dst].reshape(-1, 1))}

    def _edge_basis(self, indices, simulation: np.ndarray, start: np.ndarray):
        if self.why_computed(indices) is not None:
            return None
        frames = len(self.cache.settings.selection["starts"])
        return self.cache.gather(simulation * frames + self._cache_slot[start])


def _nodes(values: np.ndarray) -> torch.Tensor:
    """(windows, bodies, ...) -> (nodes, ...) as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(values).reshape(-1, *values.shape[2:]))


class WindowBatchSampler:
    """Batches of window indices in an order that is a pure function of (seed, epoch).

    With ``shuffle`` an epoch visits every simulation once, in random order, at one of its windows
    drawn at random; without, it visits every window in order. The last batch may be smaller.

    Arguments: dataset (:class:`NBodyDataset`), batch_size (windows), seed, shuffle.
    """

    def __init__(self, dataset: NBodyDataset, batch_size: int, seed: int = 0, shuffle: bool = True):
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        if seed < 0:
            raise ValueError(f"seed must be >= 0, got {seed}")
        self.simulations, self.windows = dataset.num_simulations, dataset.windows_per_simulation
        self.batch_size, self.seed, self.shuffle, self.epoch = batch_size, seed, shuffle, 0

    def set_epoch(self, epoch: int):
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of batches."""
        return -(
            -(self.simulations if self.shuffle else self.simulations * self.windows)
            // self.batch_size
        )

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for first in range(0, len(order), self.batch_size):
            yield order[first : first + self.batch_size].tolist()

    def _order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.simulations * self.windows)
        rng = np.random.default_rng((self.seed, self.epoch))
        return rng.permutation(self.simulations) * self.windows + rng.integers(
            self.windows, size=self.simulations
        )


def baseline_errors(dataset: NBodyDataset) -> dict[str, dict[str, float]]:
    """Mean squared errors of two guesses, for comparison, over all windows, bodies and components.

    ``{"Linear": {"x", "v"}, "constant": {"x", "v"}}``: flight with the velocity of the start (v: no
    change), and no motion.
    """
    simulation, start = dataset.windows(np.arange(len(dataset)))
    change = dataset.change(simulation, start, dataset.horizon).astype(np.float64)
    displacement, velocity_change = change[..., :3], change[..., 3:]
    flight = dataset.horizon * FRAME_TIME * dataset.velocities[simulation, start].astype(np.float64)
    guesses = {"Linear": flight, "constant": 0.0}
    v = float(np.mean(velocity_change**2))
    return {
        row: {"x": float(np.mean((displacement - guess) ** 2)), "v": v}
        for row, guess in guesses.items()
    }
