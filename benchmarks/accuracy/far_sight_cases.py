"""The sets of the far-sight benchmark, by name.

    two_atoms   two opposite charges, 1 .. 10 Angstrom apart               two_atoms.npz
    sn2         F- + CH3I -> CH3F + I-, energies alone                     sn2_F_I.npz
    cumulene    a rigid carbon chain that is turned at one end             cumulene_profile.npz
    cluster_32  32 attracting atoms in a ball, up to 10 Angstrom apart
                3D_cluster_32_atoms_radius_5.npz
    cluster_16  16 atoms in a smaller ball, all within 5 Angstrom
                3D_cluster_16_atoms_radius_2point5.npz
    dimers      binding energies of charged pairs                          charge_charge.npz
    lode_XY     one dimer of charged (C), polar (P) or apolar (A) fragments in a periodic box of
                30 Angstrom: ten training frames, three far ones           XY_train.npz, XY_test.npz
    chains, nacl, ag3, ions, zwitterions
                molecules and clusters of several total charges            NAME_train.npz, ...
    dipeptides  energies and forces of dipeptides, tested on dipoles and Born charges as well
                dipeptides_train.npz, dipeptides_val.npz, dipeptides_test.npz

The first five belong to Euclidean Fast Attention (Frank et al.), dimers and lode to LODE and to
latent Ewald summation, dipeptides to SPICE.
"""

from __future__ import annotations

from benchmarks.accuracy.far_sight_sets import (
    Case,
    dimer_split,
    fixed_split,
    lode_split,
    random_split,
)

# The recipe of the training scripts, for structures of many sizes.
ENERGY_PER_ATOM = {"weight_energy": 0.2, "weight_forces": 1.0, "energy_per": "atom"}
ENERGY_ALONE = {"weight_energy": 1.0, "weight_forces": 0.0}

# Ions and charged fragments hold their charge together; neutral structures conserve it along edges.
IONS = {"charge_conservation": "total"}

# Dimers test the network beyond its data, so it is small, and its far field keeps the tail 1 / r
# that it starts with.
CHARGES = {
    "lmax": 1,
    "schedule": "hybrid-first-order1",
    "model": {"far_kernel_lmax": 0, **IONS},
    "standing_waves": {"far_learnable_radial": False, "far_radial_scale": 1.0},
}

# Scalars, vectors and one hybrid layer can express a sum over pairs. 32 atoms within reach of each
# other are costly, so the CPU minutes go into steps: small batches, a high rate. Energies spread
# over 30 eV, so they weigh less than forces.
PAIR_SUM = {
    "lmax": 1,
    "schedule": "hybrid-first-order1",
    "channels": 20,
    "batch_size": 4,
    "validate_every": 1,
    "training": {"lr": 1e-2},
    "loss": {"weight_energy": 0.1, "weight_forces": 1.0},
    "model": {"far_kernel_lmax": 0, "far_radial_terms": 3},
}


def lode(name: str, **more) -> Case:
    """A class of dimers in a box. One step is one epoch: nine frames in one batch."""
    model = {**CHARGES["model"], "far_expansion": "auto"}
    settings = {**CHARGES, "model": model, **more}
    return Case(
        name,
        lode_split,
        binding=True,
        charge="file",
        batch_size=9,
        validate_every=20,
        **settings,
    )


def charged(name: str, batch_size: int, **more) -> Case:
    """A set whose structures differ in their total charge, which is an input."""
    return Case(
        name,
        fixed_split,
        charge="file",
        conditioned=True,
        batch_size=batch_size,
        loss=ENERGY_PER_ATOM,
        model=IONS,
        **more,
    )


CASES = {
    "two_atoms": Case("two_atoms.npz", random_split, (800, 100, 2000), 30.0, batch_size=50),
    "sn2": Case(
        "sn2_F_I.npz",
        random_split,
        (280, 40, 81),
        30.0,
        forces=False,
        batch_size=28,
        loss=ENERGY_ALONE,
    ),
    "cumulene": Case(
        "cumulene_profile.npz", random_split, (800, 100, 100), 3.0, batch_size=16, validate_every=2
    ),
    "cluster_32": Case(
        "3D_cluster_32_atoms_radius_5.npz", random_split, (1600, 50, 350), 10.0, **PAIR_SUM
    ),
    "cluster_16": Case(
        "3D_cluster_16_atoms_radius_2point5.npz", random_split, (1600, 50, 350), 1 / 1.1, **PAIR_SUM
    ),
    "dimers": Case(
        "charge_charge.npz",
        dimer_split,
        (63, 9, 45),
        0.1,
        forces=False,
        binding=True,
        charge="neutral",
        fragment_charges=(1.0, -1.0),
        batch_size=9,
        loss=ENERGY_ALONE,
        **CHARGES,
    ),
    "lode_CC": lode("CC", fragment_charges=(1.0, -1.0)),
    "lode_CP": lode("CP"),
    "lode_CA": lode("CA"),
    "lode_PP": lode("PP"),
    "lode_PA": lode("PA"),
    "lode_AA": lode("AA"),
    "chains": charged("chains", 8),
    "nacl": charged("nacl", 8, more_tests=("nacl_scan", "nacl_scan_frozen")),
    "ag3": charged("ag3", 32),
    "ions": charged("ions", 4),
    "zwitterions": charged("zwitterions", 8, more_tests=("zwitterions_test_unseen_n",)),
    "dipeptides": Case(
        "dipeptides",
        fixed_split,
        charge="neutral",
        multipoles=True,
        batch_size=4,
        validate_every=2,
        loss=ENERGY_PER_ATOM,
    ),
}
