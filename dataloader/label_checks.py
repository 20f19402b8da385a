"""Whether energies, forces and positions belong together: a check of a set before it is used.

    slope      changes of the energy between near frames against the work of the forces: 1 where the
               forces are minus the slope of the energy (near_frames). Its sign, its distance from 1
               and the ratios of units tell what is wrong
    energies   frames whose energy no force explains, found by median and MAD
    forces     no atom feels more than the bare nuclei around it could do
    distances  nearest atoms against the sum of their covalent radii (nearest_atoms)
    bonds      stiffness of bonds of hydrogen, which all theories agree on (bond_stiffness)
    totals     energies of all electrons against energies of the atoms (label_units)

What cannot be right is refused; what is only likely wrong is a note. Both name frames. Real sets
of molecules, liquids and crystals have slopes of 0.8 to 1.2, forces below 0.2 of the limit, and
nearest distances of 0.6 to 1.3 covalent ones. Cost: linear in all frames, quadratic in at most 1000
frames of a sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from farfield.dataloader.bond_stiffness import stiffness_words
from farfield.dataloader.label_units import Told, ratio_words, total_energy_words
from farfield.dataloader.near_frames import FramePairs, near_pairs
from farfield.dataloader.nearest_atoms import NearestAtoms, check_distances, nuclear_limit
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import KCAL_MOL
from farfield.models.heads.target_scaling import compositions

OFF, SAMPLE, ALL = "off", "sample", "all"
MODES = (OFF, SAMPLE, ALL)

SAMPLED_FRAMES, SAMPLED_RUNS = 1000, 10
MOST_SUSPECTS = 20  # frames that stand out, added to a sample
MOST_NAMED = 5  # frames in a message

# between near frames
MOST_MOVED = 0.6  # Angstrom that an atom moves from a frame to its nearest one
LEAST_PAIRS = 16
USUAL_SLOPES = (0.65, 1.5)
CERTAIN_SLOPES = (0.4, 2.5)
CERTAINTY = 8  # standard errors between the slope and 1
WRONG_SIGN = 0.4  # of -1
PER_ATOM = 0.2  # |ln| of the slope times the atoms
EXPLAINED = 0.45  # least share of the changes that one factor explains; 0.5 to 1 of correct labels
UNEXPLAINED = 0.2  # share where energies are of other frames
MANY_PAIRS = 30
ROUNDING = 1e-6  # of an energy
LEAST_SPREAD = 0.1  # of the median: pairs of smaller spread weigh no more

# what stands out
WILD_ENERGY = 20.0  # eV that no force explains
WILD_DEVIATIONS = 30.0  # in units of 1.4826 MAD
WILD_FORCE = 100.0  # eV/Angstrom
WILD_FORCE_RATIO = 100.0  # to the median frame
LARGE_FORCES = 8.0  # eV/Angstrom, root mean square of the components
LEAST_FRAMES = 8  # of one composition, for its median
FRAMES_PER_ELEMENT = 4  # at least, for a fit of energies of the elements


@dataclasses.dataclass(frozen=True)
class LabelFindings:
    """What a check found, each a line: wrong (certain), notes (likely), facts (for the reader)."""

    wrong: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


def check_labels(
    structures: Structures,
    mode: str = SAMPLE,
    place: Callable[[int], str] = "frame {}".format,
) -> LabelFindings:
    """What is wrong with the labels of a set, as far as energies, forces and positions tell.

    mode: ``sample`` compares up to 1000 frames with each other, ``all`` all of them, ``off`` does
    nothing; single energies, forces and distances of open structures are always checked in all
    frames. place: words for a frame of the set. Labels that are missing are not compared.
    """
    if mode == OFF or not len(structures):
        return LabelFindings()
    frames = sampled(len(structures), mode)
    nearest = NearestAtoms.find(structures, frames)
    wrong, notes, facts = check_distances(structures, nearest, place)

    # each quantity alone, then together
    told = []
    suspects = wild_energies(structures)
    if structures.energy is not None:
        told.append(total_energy_words(structures))
    if structures.forces is not None:
        wild = wild_forces(structures)
        wrong += _impossible_forces(structures, wild, place)
        notes += _strange_forces(structures, wild, place)
        told.append(stiffness_words(structures, nearest))
        notes += _large_forces(structures)
    if structures.energy is not None and structures.forces is not None:
        # suspects are compared with the sample, wherever they lie
        pairs = near_pairs(structures, np.union1d(frames, suspects[:MOST_SUSPECTS]))
        slope = Slope.of(pairs)
        if slope is not None:
            facts.append(slope.fact)
            told.append(slope.told(place, structures))
        if slope is None or slope.is_usual:
            told += _unexplained_energies(structures, pairs, suspects, place)

    # of a likely cause nothing is said where another one is certain
    wrong += [one.text for one in told if one is not None and one.certain]
    notes += [one.text for one in told if one is not None and not one.certain]
    return LabelFindings(tuple(wrong), () if wrong else tuple(notes), tuple(facts))


def sampled(count: int, mode: str) -> np.ndarray:
    """Frames that are compared: all, or ten runs of 100 that lie evenly."""
    if mode == ALL or count <= SAMPLED_FRAMES:
        return np.arange(count)
    length = SAMPLED_FRAMES // SAMPLED_RUNS
    starts = np.linspace(0, count - length, SAMPLED_RUNS).astype(int)
    return np.unique(starts[:, None] + np.arange(length))


@dataclasses.dataclass(frozen=True)
class Slope:
    """Factor s of change = s work over near pairs: robust least squares, weights 1 / spread^2.

    value, error  s and its standard error. explained: share of the changes that s work explains,
    1 - median |change - s work| / median |change|, both in units of the spread
    """

    value: float
    error: float
    explained: float
    pairs: FramePairs

    @classmethod
    def of(cls, pairs: FramePairs) -> Slope | None:
        """None where too few frames are near each other."""
        near = pairs.where((pairs.farthest < MOST_MOVED) & (pairs.farthest > 0))
        if len(near) < LEAST_PAIRS or not near.spread.any():
            return None
        spread = np.maximum(near.spread, LEAST_SPREAD * np.median(near.spread))
        spread = np.maximum(spread, 1e-9 * near.spread.max())
        x, y = near.work / spread, near.change / spread
        if not x.any():
            return None

        # Huber's weights, from the best line through the origin on
        weight = np.ones(len(x))
        for _ in range(30):
            value = (weight * x * y).sum() / (weight * x * x).sum()
            rest = np.abs(y - value * x)
            scale = max(1.4826 * np.median(rest), 1e-12)
            weight = np.minimum(1, 2 * scale / np.maximum(rest, 1e-30))
        square = (weight * x * x).sum()
        error = np.sqrt(((weight * x * rest) ** 2).sum()) / square
        explained = 1 - np.median(rest) / max(np.median(np.abs(y)), 1e-30)
        return cls(float(value), float(error), float(explained), near)

    @property
    def is_usual(self) -> bool:
        """Whether correct labels have such slopes."""
        return USUAL_SLOPES[0] < self.value < USUAL_SLOPES[1] and self.explained > UNEXPLAINED

    @property
    def fact(self) -> str:
        """The slope for the reader."""
        return (
            f"energies follow {self.value:.2f} +- {self.error:.2f} times the work of the forces "
            f"({len(self.pairs)} pairs of near frames)"
        )

    def told(self, place: Callable[[int], str], structures: Structures) -> Told | None:
        """What is wrong with the labels, None where nothing is."""
        if self.is_usual:
            return None
        strongest = int(np.abs(self.pairs.work).argmax())
        ends = (self.pairs.first[strongest], self.pairs.second[strongest])
        example = (
            f"{len(self.pairs)} pairs of near frames, e.g. from {place(ends[0])} to "
            f"{place(ends[1])}: energy {self.pairs.change[strongest]:+.3g} eV, work of the forces "
            f"{self.pairs.work[strongest]:+.3g} eV"
        )

        # few frames, and few digits, leave doubt
        reason = self._reason(np.unique(structures.counts))
        certain = reason.certain and abs(self.value - 1) > CERTAINTY * self.error
        if self.explained < UNEXPLAINED:
            certain = len(self.pairs) >= MANY_PAIRS and not self._is_rounding(structures)
        return Told(f"{reason.text} ({example})", certain)

    def _reason(self, sizes: np.ndarray) -> Told:
        """sizes: numbers of atoms that occur."""
        if self.explained < UNEXPLAINED:
            return Told("energies do not follow the forces: are they of other frames?", True)
        outside = not CERTAIN_SLOPES[0] < self.value < CERTAIN_SLOPES[1]

        # one factor explains the changes: which one is it?
        if self.explained > EXPLAINED:
            if abs(self.value + 1) < WRONG_SIGN:
                return Told(
                    "the forces have the wrong sign, they point up the energy: are they "
                    "gradients? forces are -dE/dx",
                    True,
                )
            ratio = ratio_words(self.value) if self.value > 0 else None
            per_atom = len(sizes) == 1 and sizes[0] > 1 and self.value > 0
            off = abs(np.log(self.value * sizes[0])) if per_atom else np.inf
            if off < PER_ATOM:
                also = f", or {ratio}" if ratio else ""
                return Told(f"energies are per atom, not of whole structures{also}", True)
            if ratio:
                return Told(ratio, True)
        return Told(f"energies change {self.value:.3g} times as much as the forces say", outside)

    def _is_rounding(self, structures: Structures) -> bool:
        """Whether energies of near frames differ by no more than numbers of few digits do."""
        rest = np.median(np.abs(self.pairs.change - self.pairs.work))
        return rest < ROUNDING * np.abs(structures.energy).max()


def wild_energies(structures: Structures) -> np.ndarray:
    """Frames whose energy lies far from others of their composition, wildest first.

    Frames of rare compositions are compared with energies of the elements, fitted to all of them.
    """
    if structures.energy is None:
        return np.zeros(0, int)

    # equal compositions have equal sums of random numbers, one for each element
    code = np.random.default_rng(0).random(256)[structures.atomic_numbers]
    code = np.bincount(structures.structure_of_atom, weights=code, minlength=len(structures))
    _, group, count = np.unique(np.round(code, 8), return_inverse=True, return_counts=True)
    away = np.zeros(len(structures))
    for number in np.flatnonzero(count >= LEAST_FRAMES):
        members = np.flatnonzero(group == number)
        away[members] = _deviation(structures.energy[members])

    rare = np.flatnonzero((count < LEAST_FRAMES)[group])
    if len(rare) > FRAMES_PER_ELEMENT * len(structures.elements):
        few = structures[rare]
        table = compositions(few.atomic_numbers, few.counts, few.elements)
        fitted = np.linalg.lstsq(table, few.energy, rcond=None)[0]
        away[rare] = _deviation(few.energy - table @ fitted)
    order = np.argsort(-away, kind="stable")
    return order[away[order] > 1]


def _deviation(values: np.ndarray) -> np.ndarray:
    """Distances from the median in units of what counts as wild."""
    off = np.abs(values - np.median(values))
    return off / max(WILD_ENERGY, WILD_DEVIATIONS * 1.4826 * np.median(off))


def wild_forces(structures: Structures) -> np.ndarray:
    """Frames with a force above 100 eV/Angstrom, largest first."""
    if structures.forces is None:
        return np.zeros(0, int)
    largest = _largest_forces(structures)
    order = np.argsort(-largest, kind="stable")
    return order[largest[order] > WILD_FORCE]


def _largest_forces(structures: Structures) -> np.ndarray:
    size = np.linalg.norm(structures.forces, axis=1)
    return np.maximum.reduceat(size, structures.offsets[:-1])


def _impossible_forces(
    structures: Structures, suspects: np.ndarray, place: Callable[[int], str]
) -> list[str]:
    """Frames with forces beyond what the nuclei around could do."""
    found = []
    for frame in suspects[:MOST_SUSPECTS].tolist():
        rows = slice(structures.offsets[frame], structures.offsets[frame + 1])
        size = np.linalg.norm(structures.forces[rows], axis=1)
        if (size > np.maximum(nuclear_limit(structures, frame), WILD_FORCE)).any():
            found.append(f"{place(frame)} ({size.max():.3g})")
    if not found:
        return []
    return [
        "forces are larger than bare nuclei at these distances could make them, eV/Angstrom: "
        f"{_named(found)}"
    ]


def _strange_forces(
    structures: Structures, suspects: np.ndarray, place: Callable[[int], str]
) -> list[str]:
    if not len(suspects):
        return []
    largest = _largest_forces(structures)
    limit = WILD_FORCE_RATIO * np.median(largest)
    strange = [f"{place(k)} ({largest[k]:.3g})" for k in suspects.tolist() if largest[k] > limit]
    if not strange:
        return []
    return [
        f"largest forces of some frames are more than {WILD_FORCE_RATIO:g} times their median, "
        f"{np.median(largest):.3g} eV/Angstrom: {_named(strange)}"
    ]


def _large_forces(structures: Structures) -> list[str]:
    size = float(np.sqrt((structures.forces**2).mean()))
    if size < LARGE_FORCES:
        return []
    return [
        f"forces are large, {size:.3g} eV/Angstrom rms where 0.1 to 4 are usual (in kcal/mol per "
        f"Angstrom they would be {size * KCAL_MOL:.2g}): is their unit right?"
    ]


def _unexplained_energies(
    structures: Structures,
    pairs: FramePairs,
    suspects: np.ndarray,
    place: Callable[[int], str],
) -> list[Told]:
    """Frames whose energy the forces do not explain (certain), and those without a near frame."""
    change = np.abs(pairs.change - pairs.work)
    unexplained = change - 2 * (np.abs(pairs.work) + pairs.spread)
    wrong, alone = [], []
    for frame in suspects[:MOST_SUSPECTS].tolist():
        own = np.flatnonzero((pairs.first == frame) | (pairs.second == frame))
        near = own[pairs.farthest[own] < 2 * MOST_MOVED]
        if len(near) and unexplained[near].min() > WILD_ENERGY:
            wrong.append(f"{place(frame)} ({change[near].min():.4g} eV)")
        elif not len(own) or unexplained[own].min() > WILD_ENERGY:
            alone.append(f"{place(frame)} ({structures.energy[frame]:.6g} eV)")

    told = []
    if wrong:
        text = "energies differ from the nearest frames by more than the forces explain"
        told.append(Told(f"{text}: {_named(wrong)}", True))
    if alone:
        text = "energies are far from others of their composition"
        told.append(Told(f"{text}: {_named(alone)}", False))
    return told


def _named(words: list[str]) -> str:
    """The first frames of a list, and how many there are."""
    more = f" and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    return ", ".join(words[:MOST_NAMED]) + more
