"""Smeared Coulomb energy of periodic structures: Ewald's sum for charges of a finite width.

    E = 1/2 sum_(i, j, images; not i itself) q_i . q_j k_e erf(r / (sqrt 2 sigma)) / r

The kernel is band-limited, its transform is 4 pi k_e exp(-k^2 sigma^2 / 2) / k^2: the reciprocal
sum alone is exact. In a wide cell with few atoms it has far more wave vectors than pairs, so part
of the kernel is summed over pairs, with a second width eta >= sigma:

    E = (2 pi k_e / V) sum_(0 < |k| < x / eta) exp(-k^2 eta^2 / 2) / k^2 sum_c |S_c(k)|^2
        - k_e / (sqrt(2 pi) eta) sum_i q_i^2  -  pi k_e (eta^2 - sigma^2) / V sum_c Q_c^2
        + 1/2 sum_(i != j, r < x eta) q_i . q_j [phi_sigma(r) - phi_eta(r)]
    S_c(k) = sum_i q_ic exp(i k . r_i),   Q_c = sum_i q_ic,   phi_s(r) = k_e erf(r / (sqrt 2 s)) / r

The terms are the reciprocal sum, an atom with itself, k = 0 of the pairs, and the pairs, each at
its nearest image: eta is at most the one for which x eta is half the smallest height of the cell.
It is that one or sigma, whichever the counts of wave vectors and pairs make cheaper.

k = 0 is left out: charges are neutralised by a uniform background, and the mean of their potential
is zero (tin-foil boundary). For a neutral cell that changes nothing. A cell of charge Q has the
energy of the charges in that background, as density-functional programs have it up to a constant
Q^2 / V that depends on the width of the charges: compare such energies in one cell only.

Structure factors are products of three lists, exp(2 pi i n_a s_a) with fractional coordinates s,
so they are one matrix product: (k_1 k_2 x atoms) (atoms x k_3 channels).

Source: Frenkel & Smit, Understanding Molecular Simulation, 12.1.

Cost: atoms x wave vectors x channels multiply-adds, that is atoms x volume. More than
``MESH_ATOMS`` atoms go to a grid (``kernels/particle_mesh.py``), N log N.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from farfield.models.kernels.boys import boys
from farfield.models.kernels.particle_mesh import mesh_sum

COULOMB = 14.399645  # k_e = e^2 / (4 pi epsilon_0), eV Angstrom

# x of the module: exp(-x^2 / 2) is what is left out
REACH = {torch.float32: 5.5, torch.float64: 8.0}

# measured on one core, ns: a pair, a wave vector, an atom at a wave vector, each with derivatives
PAIR_COST, WAVE_COST, PHASE_COST = 150.0, 60.0, 1.0
MESH_ATOMS = 400  # from this number of atoms on a grid is cheaper
MESH_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
SMALLEST_VOLUME = 1e-6  # of a cell, as a fraction of the product of its three lengths


def coulomb_at_zero(width: float | Tensor) -> float | Tensor:
    """Energy of two unit charges of ``width`` (Angstrom) on one place, eV."""
    return COULOMB * math.sqrt(2 / math.pi) / width


class Crystals(NamedTuple):
    """Periodic structures of one size.

    positions (B, n, 3) and cell (B, 3, 3), rows are lattice vectors, Angstrom. smearing: sigma.
    width (B,): eta of every structure.
    """

    positions: Tensor
    cell: Tensor
    smearing: float
    width: Tensor

    @classmethod
    def of(cls, positions: Tensor, cell: Tensor, smearing: float, dense: bool = False) -> Crystals:
        """The structures with the cheaper width; dense: whether all pairs are computed anyway.

        Raises ValueError for a cell without volume.
        """
        heights = _heights(cell)
        reach, atoms = REACH[positions.dtype], positions.shape[1]
        lengths = cell.detach().double().norm(dim=2).tolist()
        widths = [
            _cheaper_width(smearing, min(height) / (2 * reach), length, reach, atoms, dense)
            for height, length in zip(heights.tolist(), lengths, strict=True)
        ]
        return cls(positions, cell, smearing, positions.new_tensor(widths))

    @property
    def volume(self) -> Tensor:
        """(B,), Angstrom^3."""
        return torch.linalg.det(self.cell).abs()

    def fractional(self) -> Tensor:
        """Coordinates in units of the lattice vectors, 0 .. 1: (B, n, 3)."""
        exact = self.positions.double() @ torch.linalg.inv(self.cell.double())
        return (exact - exact.detach().floor()).to(self.positions.dtype)


def _heights(cell: Tensor) -> Tensor:
    """Distances of opposite faces (B, 3) float64; ValueError for the first flat cell."""
    cell = cell.detach().double()
    volume = torch.linalg.det(cell).abs()
    flat = ~(volume > SMALLEST_VOLUME * cell.norm(dim=2).prod(1))
    if flat.any():
        found = float(volume[flat][0])
        raise ValueError(
            f"charges of periodic structures need cells with a volume > 0 Angstrom^3, got {found:g}"
        )
    return 1 / torch.linalg.inv(cell).norm(dim=1)


def _cheaper_width(
    smearing: float, widest: float, lengths: list[float], reach: float, atoms: int, dense: bool
) -> float:
    """The smearing, or the widest split if that is cheaper."""
    if widest <= smearing:
        return smearing

    def cost(width: float) -> float:
        vectors = math.prod(reach * length / (math.pi * width) for length in lengths) / 2
        return vectors * (WAVE_COST + PHASE_COST * atoms)

    pairs = 0.0 if dense else PAIR_COST * atoms**2
    return widest if cost(widest) + pairs < cost(smearing) else smearing


def ewald_energy(crystals: Crystals, charges: Tensor) -> Tensor:
    """E of periodic structures (B,) float64, eV; charges (B, n, channels) in e."""
    if charges.shape[1] > MESH_ATOMS:
        each = zip(crystals.positions, crystals.cell, charges, strict=True)
        return torch.stack([mesh_energy(*one, crystals.smearing) for one in each])
    width, exact = crystals.width.double(), charges.double()
    squares = exact.square().sum((1, 2))
    energy = reciprocal_energy(crystals, charges) - 0.5 * coulomb_at_zero(width) * squares
    if bool((width > crystals.smearing).any()):
        pairs = _short_matrix(crystals)
        energy = energy + 0.5 * ((pairs @ charges).double() * exact).sum((1, 2))
        energy = energy + 0.5 * _zero_wave(crystals).double() * exact.sum(1).square().sum(1)
    return energy


def mesh_energy(positions: Tensor, cell: Tensor, charges: Tensor, smearing: float) -> Tensor:
    """E of one periodic structure, its reciprocal sum on a grid: () float64, eV.

    positions (n, 3), cell (3, 3), charges (n, channels).
    """

    def transform(vectors: Tensor) -> Tensor:
        squared = vectors.square().sum(-1)
        zero = squared == 0
        falling = torch.exp(-0.5 * smearing**2 * squared) / torch.where(zero, 1.0, squared)
        return (4 * math.pi * COULOMB * torch.where(zero, 0.0, falling)).view(1, 1, -1)

    kappa_max = REACH[positions.dtype] / smearing
    tolerance = MESH_TOLERANCE[positions.dtype]
    potential = mesh_sum(positions, cell, charges, transform, kappa_max, tolerance)[:, 0]
    own = coulomb_at_zero(smearing) * charges.double().square().sum()
    return 0.5 * ((charges * potential).double().sum() - own)


def ewald_matrix(crystals: Crystals) -> Tensor:
    """Coulomb energy of unit charges on two atoms and all images (B, n, n), eV.

    An atom acts on itself too, so the matrix has no negative eigenvalue.
    """
    waves, weight = _waves(crystals)  # three of (B, n, K_a); (B, K_1, K_2, K_3)
    phases = torch.einsum("bnx,bny,bnz->bnxyz", *waves).flatten(2)
    halves = phases * (2 * weight.flatten(1)).sqrt().unsqueeze(1)
    halves = torch.view_as_real(halves).flatten(2)
    matrix = halves @ halves.transpose(1, 2)
    if not bool((crystals.width > crystals.smearing).any()):
        return matrix

    # the pairs leave out the atom itself: the difference of both kernels at zero
    own = coulomb_at_zero(crystals.smearing) - coulomb_at_zero(crystals.width)
    own = torch.diag_embed(own.unsqueeze(1).expand(matrix.shape[:2]))
    return matrix + _short_matrix(crystals) + own + _zero_wave(crystals).view(-1, 1, 1)


def reciprocal_energy(crystals: Crystals, charges: Tensor) -> Tensor:
    """The sum over wave vectors (B,) float64, atoms with themselves included.

    charges: (B, n, channels).
    """
    waves, weight = _waves(crystals)
    across = (waves[0].unsqueeze(3) * waves[1].unsqueeze(2)).flatten(2)  # (B, n, K_1 K_2)
    along = (waves[2].unsqueeze(3) * charges.unsqueeze(2)).flatten(2)  # (B, n, K_3 channels)

    factors = torch.view_as_real(across.transpose(1, 2) @ along).square().sum(-1)
    factors = factors.unflatten(2, (-1, charges.shape[2])).sum(-1)  # (B, K_1 K_2, K_3)
    return (weight.flatten(1, 2) * factors).sum((1, 2), dtype=torch.float64)


def _waves(crystals: Crystals) -> tuple[list[Tensor], Tensor]:
    """exp(2 pi i n_a s_a) of the three axes (B, n, K_a), and weights (B, K_1, K_2, K_3), eV.

    One of each pair +-k is there, so that n_3 >= 0; weights are zero outside the sphere.
    """
    cell, width = crystals.cell, crystals.width
    reach = REACH[crystals.positions.dtype]
    bounds = cell.detach().norm(dim=2) * (reach / (2 * math.pi)) / width.unsqueeze(1)
    bounds = bounds.amax(0).int().tolist()
    axes = [
        torch.arange(-bound, bound + 1, dtype=cell.dtype, device=cell.device) for bound in bounds
    ]
    axes[2] = axes[2][bounds[2] :]

    angles = 2 * math.pi * crystals.fractional()
    waves = [_unit_circle(angles[..., axis, None] * steps) for axis, steps in enumerate(axes)]

    # k = 2 pi n H^-T: (B, K_1, K_2, K_3, 3)
    steps = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    vectors = 2 * math.pi * torch.einsum("xyza,bca->bxyzc", steps, torch.linalg.inv(cell))
    squared = vectors.square().sum(-1)
    scaled = squared * width.view(-1, 1, 1, 1).square()
    inside = (scaled < reach**2) & (squared > 0)

    both = torch.where(axes[2] > 0, 2.0, 1.0).to(cell.dtype)  # n_3 = 0 holds k and -k itself
    falling = torch.exp(-0.5 * scaled) / torch.where(inside, squared, 1.0)
    factor = 2 * math.pi * COULOMB / crystals.volume
    return waves, torch.where(inside, both * factor.view(-1, 1, 1, 1) * falling, 0.0)


def _unit_circle(angle: Tensor) -> Tensor:
    """``exp(i angle)``, complex."""
    return torch.complex(angle.cos(), angle.sin())


def _short_matrix(crystals: Crystals) -> Tensor:
    """Pairs at their nearest image, kernel of width sigma less that of width eta: (B, n, n), eV.

    Zero for an atom with itself.
    """
    steps = crystals.fractional()
    steps = steps.unsqueeze(2) - steps.unsqueeze(1)
    steps = steps - steps.detach().round()
    squared = (steps @ crystals.cell.unsqueeze(1)).square().sum(-1)  # (B, n, n)

    width = crystals.width.view(-1, 1, 1)
    narrow = coulomb_at_zero(crystals.smearing) * boys(squared / (2 * crystals.smearing**2))
    wide = coulomb_at_zero(width) * boys(squared / (2 * width.square()))
    near = squared.detach() < (REACH[squared.dtype] * width).square()
    near = near & ~torch.eye(squared.shape[1], dtype=torch.bool, device=squared.device)
    return torch.where(near, narrow - wide, 0.0)


def _zero_wave(crystals: Crystals) -> Tensor:
    """What the pairs hold of k = 0, taken off (B,): for a pair of unit charges, eV."""
    more = crystals.width.square() - crystals.smearing**2
    return -2 * math.pi * COULOMB * more / crystals.volume
