"""Molecules with properties as labels, their graphs and edge bases read from a preprocessed folder.

A folder made by preprocess.preprocess_qm9 holds

    molecules.npz   all molecules, labels in ``extra`` (see dataloader.structures)
    split.npz       which of them train, validate, test
    basis/          graphs and basis of all molecules (see dataloader.storage.basis_cache)
    bond_kinds/     kind of every undirected edge of ``basis/``, 0 where it is not a bond; left out
                    where it was not asked for
    manifest.json   settings, SHA-256 of the npz files

Labels are made in float64, ``(value - reference) / scale`` with a scaling (see
models.heads.target_scaling.fit_scaling), and positions are shifted to the centroid in float64
before they are rounded. The stored vectors are differences of these rounded positions: a basis from
the cache and one computed from the batch are the same numbers to rounding. Cost: a batch is a few
copies; times in `benchmarks/speed/bench_qm9_cache.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from farfield.dataloader.commands import called_as
from farfield.dataloader.datasets.structure_dataset import StructureDataset, read_inputs
from farfield.dataloader.label_statistics import centroids
from farfield.dataloader.prepared_folder import MANIFEST, SPLIT_FILE, check_finished
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.splits import Split
from farfield.dataloader.storage import array_store, files
from farfield.dataloader.storage.basis_cache import BasisCache
from farfield.dataloader.structures import Structures
from farfield.models.batch import AtomBatch
from farfield.models.choices import check_choice, nearest
from farfield.models.heads.property_heads import PROPERTIES
from farfield.models.heads.target_scaling import references

MOLECULES = "molecules.npz"
BASIS = "basis"
BOND_KINDS = "bond_kinds"
KINDS_WHAT = "farfield bond kinds"
KINDS_FORMAT = 1
HINT = (
    f"make the folder with `{called_as('preprocess.preprocess_qm9')} --out FOLDER` (--rebuild "
    "replaces what is there)"
)


def centred_positions(structures: Structures, dtype=np.float32) -> np.ndarray:
    """Positions (atoms, 3) with the centroid of every structure at the origin; shifted in float64,
    then rounded to ``dtype``.
    """
    return (structures.positions - centroids(structures)[structures.structure_of_atom]).astype(
        dtype
    )


def write_bond_kinds(
    folder: str | Path, parts: Sequence[np.ndarray], data_hash: str, graph_rule: dict
):
    """Write the store ``folder`` of the kinds (undirected edges,) uint8 of the graphs of a basis
    cache, ``parts`` one after the other.
    """
    store = array_store.write_store(
        folder, KINDS_WHAT, KINDS_FORMAT, data_hash, {"graph_rule": graph_rule}
    )
    with store as temporary, files.NpyWriter(temporary / "kinds.npy", (), np.uint8) as writer:
        for part in parts:
            writer.append(part)


def open_bond_kinds(
    folder: str | Path, data_hash: str, graph_rule: dict, edges: int, verify: str = "full"
) -> np.ndarray:
    """The kinds (edges,) of :func:`write_bond_kinds`; ``FileNotFoundError`` or ``ValueError`` if
    they are not these.

    In memory, not mapped: they are a byte each, and a batch would visit a page of the map for every
    molecule.
    """
    manifest = array_store.read_manifest(folder, KINDS_WHAT, KINDS_FORMAT, ("kinds",), HINT)
    array_store.check_data(folder, manifest, data_hash, HINT)
    array_store.check_arrays(folder, manifest, HINT, verify)
    kinds = array_store.map_arrays(folder, manifest)["kinds"]
    if manifest["settings"] != {"graph_rule": graph_rule} or kinds.shape != (edges,):
        raise ValueError(
            f"{folder} holds the kinds of {kinds.shape[0]} edges of {manifest['settings']}, but "
            f"{edges} edges of {graph_rule} are needed; {HINT}"
        )
    return np.array(kinds)


class PropertyDataset(StructureDataset):
    """Molecules with properties; ``dataset[indices]`` is a batch.

    Arguments
        structures  the molecules; their ``extra`` holds the properties
        cache       graphs and bases, also of other molecules
        graph_ids   (structures,) graph of each structure in the cache
        bond_kinds  (undirected edges of the cache,) uint8, or None
        targets     names of the properties that are labels (none: all known ones in the data)
        scaling     of all targets, as :func:`models.heads.target_scaling.fit_scaling` gives it,
                    or None: labels in their units
        dtype       of positions; batches of another than float32 have no basis, since the cached
                    one is rounded to float32
        basis       whether batches have their basis
        inputs      names in ``structures.extra`` with one value a molecule (total_charge, spin):
                    they become ``graph_features`` of a batch
        optional_inputs  further such names, read if the structures have them

    A batch has positions (nodes, 3), centred, atomic_numbers (nodes,), edge_features bond_kinds
    (edges,) int64 if the data have them, and the labels TARGET (graphs,) or (graphs, 3) float64.
    ``ValueError`` for targets that are missing or not finite.
    """

    def __init__(
        self,
        structures: Structures,
        cache: BasisCache,
        graph_ids: np.ndarray,
        bond_kinds: np.ndarray | None = None,
        targets: Sequence[str] = (),
        scaling: Mapping[str, Mapping] | None = None,
        dtype: torch.dtype = torch.float32,
        basis: bool = True,
        inputs: Sequence[str] = (),
        optional_inputs: Sequence[str] = (),
    ):
        if not np.array_equal(cache.nodes_per_graph[graph_ids], structures.counts):
            raise ValueError(
                f"the graphs of {cache.folder} do not belong to the {len(structures)} "
                f"molecules; {HINT}"
            )
        rounded = np.float64 if dtype == torch.float64 else np.float32
        positions = torch.from_numpy(centred_positions(structures, rounded)).to(dtype)
        super().__init__(structures, positions)

        self.cache = cache
        self.graph_ids = np.asarray(graph_ids, np.int64)
        self.bond_kinds = bond_kinds
        self.basis = basis and dtype == torch.float32
        self.graph_inputs = read_inputs(structures, inputs, dtype, optional_inputs)

        known = tuple(name for name in PROPERTIES if name in structures.extra)
        self.targets = tuple(targets) or known
        self.values = {name: _values(structures, name) for name in self.targets}
        self.set_scaling(scaling)

    def set_scaling(self, scaling: Mapping[str, Mapping] | None):
        """Labels from now on: ``(value - reference) / scale``, or the values for None."""
        labels = self.values
        if scaling is not None:
            atoms = self.structures.atomic_numbers, self.structures.counts
            shifted = {
                name: values - references(*atoms, scaling, name) for name, values in labels.items()
            }
            labels = {name: values / scaling[name]["scale"] for name, values in shifted.items()}
        self.scaling = scaling
        self._labels = {name: torch.from_numpy(values) for name, values in labels.items()}

    @classmethod
    def open(
        cls, folder: str | Path, split: str, *, verify: str = "full", **options
    ) -> PropertyDataset:
        """The split ("train", "val", "test") of a preprocessed folder.

        verify: of the big arrays, as in :meth:`BasisCache.open`. options: targets, scaling, dtype,
        basis, inputs, optional_inputs. ``FileNotFoundError`` or ``ValueError``: one line with the
        file and what to do.
        """
        return PropertyFolder.open(folder, verify).dataset(split, **options)

    @property
    def graph_rule(self) -> dict:
        """Which atoms are neighbours, e.g. ``{"kind": "bonds"}``."""
        return self.cache.settings.graph_rule

    @property
    def cutoff(self) -> float | None:
        """Largest length of an edge by the rule of the graphs, Angstrom; None for other rules."""
        return self.graph_rule.get("cutoff")

    @property
    def lmax(self) -> int:
        """Largest degree of the basis."""
        return self.cache.settings.lmax

    @property
    def longest_edge(self) -> float:
        """Length of the longest edge, Angstrom; 0 without edges."""
        return self.cache.longest_edge(self.graph_ids)

    @property
    def edges_per_structure(self) -> np.ndarray:
        """Directed edges (structures,)."""
        return 2 * self.cache.edges_per_graph[self.graph_ids]

    def __getitem__(self, indices: int | Sequence[int] | np.ndarray) -> AtomBatch:
        ids, chosen, atoms = self.places(indices)
        edges = self.cache.batch(self.graph_ids[ids], self.basis)

        features = {}
        if self.bond_kinds is not None:
            features[BOND_KINDS] = torch.from_numpy(self.bond_kinds[edges.rows].astype(np.int64))
        return AtomBatch(
            graph=edges.graph,
            positions=self.positions.index_select(0, atoms),
            atomic_numbers=self.atomic_numbers.index_select(0, atoms),
            edge_features=features,
            graph_features={
                name: values.index_select(0, chosen) for name, values in self.graph_inputs.items()
            },
            labels={name: values.index_select(0, chosen) for name, values in self._labels.items()},
            edge_basis=edges.basis,
            cutoff=self.cutoff,
        )


@dataclasses.dataclass(frozen=True)
class PropertyFolder:
    """What a preprocessed folder holds, read and checked once for all its splits.

    The fields are arguments of :class:`PropertyDataset`.
    """

    structures: Structures
    split: Split
    cache: BasisCache
    bond_kinds: np.ndarray | None

    @classmethod
    def open(cls, folder: str | Path, verify: str = "full") -> PropertyFolder:
        """Read a folder.

        verify: how much of the big arrays is checked, as in :meth:`BasisCache.open`.
        ``FileNotFoundError`` or ``ValueError`` with the file and what to do.
        """
        folder = Path(folder)
        settings = read_settings(folder)
        structures, split = read_molecules(folder)
        data_hash, rule = split.data_hash, settings["graph_rule"]

        # graphs of all molecules, and what is known of their edges
        cache = BasisCache.open(
            folder / BASIS,
            data_hash=data_hash,
            lmax=settings["lmax"],
            graph_rule=rule,
            verify=verify,
        )
        kinds = None
        if settings["bond_kinds"]:
            kinds = open_bond_kinds(folder / BOND_KINDS, data_hash, rule, cache.num_edges, verify)
        return cls(structures, split, cache, kinds)

    def dataset(self, split: str, **options) -> PropertyDataset:
        """The split ("train", "val", "test"); options: as in :meth:`PropertyDataset.open`."""
        check_choice("split", split, SPLITS)
        chosen = getattr(self.split, split)
        return PropertyDataset(
            self.structures[chosen], self.cache, chosen, self.bond_kinds, **options
        )


def read_settings(folder: str | Path) -> dict:
    """Settings that a folder was made with.

    ``FileNotFoundError`` or ``ValueError`` if the folder is not finished.
    """
    path = Path(folder) / MANIFEST
    manifest = files.read_json(path, HINT)
    settings, finished = manifest.get("settings"), manifest.get("files")
    if (
        not isinstance(settings, dict)
        or not {"graph_rule", "lmax", "bond_kinds"} <= settings.keys()
    ):
        raise ValueError(
            f"{path} is damaged or was written by another program (no graph rule, lmax or bond "
            f"kinds); {HINT}"
        )

    for name in (MOLECULES, SPLIT_FILE):
        if not isinstance(finished, dict) or name not in finished:
            raise ValueError(f"{path} does not list {name}: the folder is not finished; {HINT}")
    return settings


def read_molecules(folder: Path) -> tuple[Structures, Split]:
    """All molecules of a finished folder, and which of them train, validate and test.

    ``FileNotFoundError`` or ``ValueError`` for a file that is missing or damaged.
    """
    structures = Structures.load(folder / MOLECULES, HINT)
    for name in (MOLECULES, SPLIT_FILE):
        check_finished(folder, name, HINT)
    return structures, Split.load(folder / SPLIT_FILE, structures.data_hash)


def _values(structures: Structures, target: str) -> np.ndarray:
    """Values (structures,) or (structures, 3) of a property, float64."""
    if target not in structures.extra:
        near = nearest(target, structures.extra)
        held = f"they have {', '.join(structures.extra) or 'none'}"
        guess = f"did you mean {near!r}?" if near else held
        raise ValueError(f"the molecules have no property {target!r}; {guess}")

    values = structures.extra[target].astype(np.float64)
    finite = np.isfinite(values.reshape(len(values), -1)).all(1)
    if not finite.all():
        place = int(np.argmin(finite))
        raise ValueError(
            f"{target} of {int((~finite).sum())} molecules is not finite, first of "
            f"molecule {place}; choose other targets"
        )
    return values
