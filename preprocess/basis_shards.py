"""Graphs, edge bases and bond kinds of many molecules, made by several processes in shards that
survive a kill.

A shard is :data:`MOLECULES_PER_SHARD` molecules: a small basis cache and the bond kinds of its
edges, in ``shards/00012/``, with the hash of what it was made from. Shards of an interrupted run
are used again if their settings, data and checksums fit, and made again if not. When all are
finished they are laid end to end into ``basis/`` and ``bond_kinds/``, and removed; until then both
are on the disk. Cost per molecule of 18 atoms: see `benchmarks/speed/bench_qm9_cache.py`.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from farfield.common import plugins
from farfield.dataloader.chemistry.bonds import BondTable, perceive_bonds
from farfield.dataloader.chemistry.molecule_graphs import molecule_graphs
from farfield.dataloader.datasets.property_data import (
    BASIS,
    BOND_KINDS,
    open_bond_kinds,
    write_bond_kinds,
)
from farfield.dataloader.storage import files
from farfield.dataloader.storage.basis_cache import BasisCache
from farfield.dataloader.storage.basis_rows import CacheSettings
from farfield.dataloader.structures import Structures

MOLECULES_PER_SHARD = 4096
SHARDS = "shards"  # folder of the shards
FORMER_SHARDS = "pieces"  # the same in a run of an older version that was interrupted


class Shard(NamedTuple):
    """One shard to be made.

    bonds: of the molecules (None: perceived where they are needed). settings: of the basis.
    bond_kinds: whether kinds of the bonds are made.
    """

    folder: Path
    structures: Structures
    bonds: BondTable | None
    settings: CacheSettings
    bond_kinds: bool

    @property
    def data_hash(self) -> str:
        """Identifies everything the shard is made from besides the settings."""
        bonds = [] if self.bonds is None else [self.bonds.ends, self.bonds.kinds, self.bonds.counts]
        return files.json_checksum([self.structures.data_hash, files.array_checksum(*bonds)])

    def open(self) -> tuple[BasisCache, np.ndarray | None]:
        """Basis and bond kinds of the finished shard, every byte verified.

        ``FileNotFoundError`` or ``ValueError`` if it is not finished or does not fit.
        """
        data_hash, rule = self.data_hash, self.settings.graph_rule
        basis = BasisCache.open(
            self.folder / BASIS, data_hash=data_hash, lmax=self.settings.lmax, graph_rule=rule
        )
        if basis.settings != self.settings or len(basis) != len(self.structures):
            raise ValueError(
                f"{self.folder} holds {len(basis)} graphs of {basis.settings}, but "
                f"{self.settings} is needed"
            )

        if not self.bond_kinds:
            return basis, None
        return basis, open_bond_kinds(self.folder / BOND_KINDS, data_hash, rule, basis.num_edges)


def make_shard(shard: Shard) -> int:
    """Make a shard unless it is finished; the number of its molecules."""
    try:
        shard.open()
    except (ValueError, OSError):
        shutil.rmtree(shard.folder, ignore_errors=True)
        _build(shard)
    return len(shard.structures)


def _build(shard: Shard) -> None:
    rule = shard.settings.graph_rule
    bonds = shard.bonds
    if bonds is None and (shard.bond_kinds or rule["kind"] == "bonds"):
        bonds = perceive_bonds(shard.structures)

    # the graphs append the kinds of their edges while they are made
    kinds: list[np.ndarray] = []
    graphs = molecule_graphs(shard.structures, bonds, rule, kinds if shard.bond_kinds else None)
    BasisCache.build(shard.folder / BASIS, graphs, shard.settings, shard.data_hash)
    if shard.bond_kinds:
        write_bond_kinds(shard.folder / BOND_KINDS, kinds, shard.data_hash, rule)


def shards_of(
    folder: Path,
    structures: Structures,
    bonds: BondTable | None,
    settings: CacheSettings,
    bond_kinds: bool,
) -> list[Shard]:
    """All shards of the molecules, in order."""
    shards = []
    for number, first in enumerate(range(0, len(structures), MOLECULES_PER_SHARD)):
        part = slice(first, first + MOLECULES_PER_SHARD)
        place = folder / SHARDS / f"{number:05d}"
        own = None if bonds is None else bonds[part]
        shards.append(Shard(place, structures[part], own, settings, bond_kinds))
    return shards


def make_shards(shards: list[Shard], workers: int, progress: Callable[[int], object]) -> None:
    """Make all shards that are not finished.

    workers: number of processes (1: this one). progress: called with the number of molecules done
    since the last call.
    """
    if workers == 1:
        for shard in shards:
            progress(make_shard(shard))
        return

    workers = min(workers, max(1, len(shards)))
    imports = (plugins.imported_files(),)
    with ProcessPoolExecutor(workers, _fresh_processes(), _start_worker, imports) as pool:
        try:
            for finished in as_completed([pool.submit(make_shard, shard) for shard in shards]):
                progress(finished.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)  # shards that are being made are finished and stay
            raise


def _fresh_processes():
    """How workers start: as forks of one server that has imported torch once for all of them. A
    fork of this process may hang, it has threads.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    return context


def _start_worker(imports: list[str]):
    for file in imports:
        plugins.import_file(file)  # graph rules of the user
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles an interruption
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent():
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def join_shards(
    folder: Path, shards: list[Shard], data_hash: str, progress: Callable[[int], object]
) -> None:
    """Lay the finished shards end to end into ``folder/basis`` and ``folder/bond_kinds``, and
    remove them.
    """
    opened = [shard.open() for shard in shards]
    if shards[0].bond_kinds:
        rule = shards[0].settings.graph_rule
        write_bond_kinds(folder / BOND_KINDS, [kinds for _, kinds in opened], data_hash, rule)
    BasisCache.concatenate(folder / BASIS, [basis for basis, _ in opened], data_hash, progress)
    shutil.rmtree(folder / SHARDS)


def _take_over_former_shards(folder: Path) -> None:
    """Give the shards of an older version their present place; each is verified when it is used."""
    former = folder / FORMER_SHARDS
    if former.exists() and not (folder / SHARDS).exists():
        former.rename(folder / SHARDS)


def make_basis(
    folder: Path,
    structures: Structures,
    bonds: BondTable | None,
    settings: CacheSettings,
    bond_kinds: bool,
    workers: int,
    bar: Callable,
) -> BasisCache:
    """The basis cache of all molecules in ``folder``, opened and verified if it exists, else made.

    The kinds of the bonds are made with it. bar: ``bar(total, what)`` is a context that gives a
    progress bar. ``ValueError`` or ``OSError`` with one line.
    """
    data_hash, rule = structures.data_hash, settings.graph_rule
    _take_over_former_shards(folder)
    if not (folder / BASIS).exists():
        shards = shards_of(folder, structures, bonds, settings, bond_kinds)
        with bar(len(structures), f"graphs and basis ({rule['kind']})") as shown:
            make_shards(shards, workers, shown.update)
        with bar(len(structures), "join shards") as shown:
            join_shards(folder, shards, data_hash, shown.update)

    cache = BasisCache.open(
        folder / BASIS, data_hash=data_hash, lmax=settings.lmax, graph_rule=rule
    )
    if bond_kinds:
        open_bond_kinds(folder / BOND_KINDS, data_hash, rule, cache.num_edges)
    shutil.rmtree(folder / SHARDS, ignore_errors=True)
    return cache
