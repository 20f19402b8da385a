"""Graphs, edge bases and bond kinds of many molecules, made by several processes in pieces that
outlast a kill.

A piece is :data:`PIECE` molecules: a small basis cache and the bond kinds of its edges, in
``pieces/00012/``, with the hash of what it was made from. Pieces of an interrupted run are used
again if their settings, data and checksums fit, and made again if not. When all are there they are
laid end to end into ``basis/`` and ``bond_kinds/``, and removed. Until then both stand on the disk.
Cost per molecule of 18 atoms: see `benchmarks/speed/bench_qm9_cache.py`.
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

from farfield.dataloader.chemistry.bonds import BondTable, perceive_bonds
from farfield.dataloader.chemistry.molecule_graphs import molecule_graphs
from farfield.dataloader.datasets.property_data import (
    BASIS,
    BOND_KINDS,
    open_bond_kinds,
    write_bond_kinds,
)
from farfield.dataloader.storage import files
from farfield.dataloader.storage.basis_cache import (
    BasisCache,
    CacheSettings,
)
from farfield.dataloader.structures import Structures

PIECE = 4096  # molecules
PIECES = "pieces"


class Piece(NamedTuple):
    """One piece to be made: its folder, its molecules, their bonds (None: perceived where they are
    needed), what is wanted of it.
    """

    folder: Path
    structures: Structures
    bonds: BondTable | None
    settings: CacheSettings
    bond_kinds: bool

    @property
    def data_hash(self) -> str:
        """Identifies everything the piece is made from beside the settings."""
        bonds = [] if self.bonds is None else [self.bonds.ends, self.bonds.kinds, self.bonds.counts]
        return files.json_checksum([self.structures.data_hash, files.array_checksum(*bonds)])

    def open(self) -> tuple[BasisCache, np.ndarray | None]:
        """Basis and bond kinds of the finished piece, every byte verified; ``FileNotFoundError`` or
        ``ValueError`` if it is not there.
        """
        data_hash, rule = self.data_hash, self.settings.graph_rule
        basis = BasisCache.open(
            self.folder / BASIS, data_hash=data_hash, lmax=self.settings.lmax, graph_rule=rule
        )
        if basis.settings != self.settings or len(basis) != len(self.structures):
            raise ValueError(
                f"{self.folder} holds {len(basis)} graphs of {basis.settings}, wanted is "
                f"{self.settings}"
            )
        if not self.bond_kinds:
            return basis, None
        return basis, open_bond_kinds(self.folder / BOND_KINDS, data_hash, rule, basis.num_edges)


def make_piece(piece: Piece) -> int:
    """Make a piece that is not there whole; the number of its molecules."""
    try:
        piece.open()
    except (ValueError, OSError):
        shutil.rmtree(piece.folder, ignore_errors=True)
        bonds = piece.bonds
        if bonds is None and (piece.bond_kinds or piece.settings.graph_rule["kind"] == "bonds"):
            bonds = perceive_bonds(piece.structures)
        kinds: list[np.ndarray] = []
        graphs = molecule_graphs(
            piece.structures, bonds, piece.settings.graph_rule, kinds if piece.bond_kinds else None
        )
        BasisCache.build(piece.folder / BASIS, graphs, piece.settings, piece.data_hash)
        if piece.bond_kinds:
            write_bond_kinds(
                piece.folder / BOND_KINDS, kinds, piece.data_hash, piece.settings.graph_rule
            )
    return len(piece.structures)


def pieces_of(
    folder: Path,
    structures: Structures,
    bonds: BondTable | None,
    settings: CacheSettings,
    bond_kinds: bool,
) -> list[Piece]:
    """All pieces of the molecules, in order."""
    pieces = []
    for number, first in enumerate(range(0, len(structures), PIECE)):
        part = slice(first, first + PIECE)
        own = None if bonds is None else bonds[part]
        pieces.append(
            Piece(folder / PIECES / f"{number:05d}", structures[part], own, settings, bond_kinds)
        )
    return pieces


def make_pieces(pieces: list[Piece], workers: int, progress: Callable[[int], None]):
    """Make all pieces that are not there whole, with so many processes (1: in this one);
    ``progress`` gets numbers of molecules.
    """
    if workers == 1:
        for piece in pieces:
            progress(make_piece(piece))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, max(1, len(pieces))), context, _start_worker) as pool:
        try:
            for finished in as_completed([pool.submit(make_piece, piece) for piece in pieces]):
                progress(finished.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)  # pieces that are being made are finished and stay
            raise


def _start_worker():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the parent's affair
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent():
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def join_pieces(folder: Path, pieces: list[Piece], data_hash: str, progress: Callable[[int], None]):
    """Lay the finished pieces end to end into ``folder/basis`` and ``folder/bond_kinds`` and remove
    them.
    """
    opened = [piece.open() for piece in pieces]
    if pieces[0].bond_kinds:
        rule = pieces[0].settings.graph_rule
        write_bond_kinds(folder / BOND_KINDS, [kinds for _, kinds in opened], data_hash, rule)
    BasisCache.concatenate(folder / BASIS, [basis for basis, _ in opened], data_hash, progress)
    shutil.rmtree(folder / PIECES)


def make_basis(
    folder: Path,
    structures: Structures,
    bonds: BondTable | None,
    settings: CacheSettings,
    bond_kinds: bool,
    workers: int,
    bar: Callable,
) -> BasisCache:
    """The basis cache and the bond kinds of all molecules in ``folder``, opened and verified if
    they are there, else made.

    bar: ``bar(total, what)`` is a context that gives a progress bar. ``ValueError`` or ``OSError``:
    one line.
    """
    data_hash, rule = structures.data_hash, settings.graph_rule
    if not (folder / BASIS).exists():
        pieces = pieces_of(folder, structures, bonds, settings, bond_kinds)
        with bar(len(structures), f"graphs and basis ({rule['kind']})") as shown:
            make_pieces(pieces, workers, shown.update)
        with bar(len(structures), "laid end to end") as shown:
            join_pieces(folder, pieces, data_hash, shown.update)
    cache = BasisCache.open(
        folder / BASIS, data_hash=data_hash, lmax=settings.lmax, graph_rule=rule
    )
    if bond_kinds:
        open_bond_kinds(folder / BOND_KINDS, data_hash, rule, cache.num_edges)
    shutil.rmtree(folder / PIECES, ignore_errors=True)
    return cache
