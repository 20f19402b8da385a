"""Official files of MD17, rMD17 and MD22: addresses, units, the archive of rMD17, labels of other
methods.
"""

import io
import tarfile

import numpy as np
import pytest

from farfield.dataloader.sources import md17, md22
from farfield.dataloader.units import KCAL_MOL
from tests.support.molecule_data import random_structures

SET = random_structures((4, 4, 4))
SET.atomic_numbers[:] = np.tile([6, 1, 8, 1], 3)


def official(path, **more):
    """A file as quantum-machine.org has them: kcal/mol."""
    arrays = {
        "z": SET.atomic_numbers[:4].astype(np.uint8),
        "R": SET.positions.reshape(3, 4, 3),
        "E": SET.energy[:, None] / KCAL_MOL,
    }
    np.savez(path, **arrays, F=SET.forces.reshape(3, 4, 3) / KCAL_MOL, **more)
    return path


def revised(path):
    arrays = {
        "nuclear_charges": SET.atomic_numbers[:4],
        "coords": SET.positions.reshape(3, 4, 3),
        "energies": SET.energy / KCAL_MOL,
    }
    np.savez(path, **arrays, forces=SET.forces.reshape(3, 4, 3) / KCAL_MOL)
    return path


def assert_read(structures, theory):
    np.testing.assert_allclose(structures.energy, SET.energy, rtol=1e-12)
    np.testing.assert_allclose(structures.forces, SET.forces, rtol=1e-12)
    assert structures.theory == theory


def test_official_files_are_in_kcal_per_mol(tmp_path):
    assert_read(md17.read_md17(official(tmp_path / "a.npz")), "PBE+TS (MD17)")
    assert_read(
        md17.read_md17(official(tmp_path / "a.npz", theory=np.array("unknown"))), "PBE+TS (MD17)"
    )
    assert_read(md17.read_md17(revised(tmp_path / "b.npz"), revised=True), "PBE/def2-SVP (rMD17)")
    assert_read(md22.read_md22(official(tmp_path / "c.npz")), "PBE+MBD (MD22)")
    labelled = official(
        tmp_path / "d.npz",
        theory=np.array("GFN2-xTB"),
        e_unit=np.array("kcal/mol"),
        r_unit=np.array("Ang"),
    )
    assert_read(md22.read_md22(labelled), "GFN2-xTB")
    assert "labels: GFN2-xTB" in md22.read_md22(labelled).summary()
    with pytest.raises(ValueError, match="says e_unit = 'eV', it would be read as kcal/mol"):
        md22.read_md22(official(tmp_path / "e.npz", e_unit=np.array("eV")))


def test_addresses():
    assert (
        md17.official_file("ethanol").urls[0]
        == "https://www.quantum-machine.org/gdml/data/npz/md17_ethanol.npz"
    )
    assert md22.official_file("AT-AT-CG-CG").urls[0].endswith("/md22_AT-AT-CG-CG.npz")
    assert len(md22.SAMPLE_SIZES) == 7
    assert "figshare" in md17.official_file("ethanol", revised=True).urls[0]
    for module in (md17, md22):
        with pytest.raises(ValueError, match="molecule must be one of .*, got 'water'"):
            module.official_file("water")


def test_files_are_found_whatever_their_case(tmp_path):
    assert md22.local_file(tmp_path / "absent", "AT-AT") is None
    assert md22.local_file(tmp_path, "AT-AT") is None
    official(tmp_path / "md22_at-at.npz")
    official(tmp_path / "md22_at-at-cg-cg.npz")
    assert md22.local_file(tmp_path, "AT-AT").name == "md22_at-at.npz"


def archive(path, names):
    with tarfile.open(path, "w:bz2") as content:
        for name, data in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            content.addfile(member, io.BytesIO(data))
    return path


def test_archive_of_rmd17_is_unpacked_without_its_paths(tmp_path):
    npz = revised(tmp_path / "x.npz").read_bytes()
    lists = {
        f"rmd17/splits/index_{part}_0{number}.csv": b"0\n1\n"
        for part in ("train", "test")
        for number in range(1, 6)
    }
    names = {
        "../../rmd17_ethanol.npz": npz,
        "rmd17/npz_data/rmd17_aspirin.npz": b"other",
        "rmd17/readme.txt": b"text",
    } | lists
    target = tmp_path / "raw"
    target.mkdir()
    path = md17.unpack_revised(archive(tmp_path / "rmd17.tar.bz2", names), "ethanol", target)
    assert path == target / "rmd17_ethanol.npz" == md17.revised_file(target, "ethanol")
    assert path.read_bytes() == npz
    assert len(list(target.iterdir())) == 11
    assert md17.revised_splits(target) == target
    with pytest.raises(ValueError, match=r"has no member rmd17_uracil\.npz"):
        md17.unpack_revised(tmp_path / "rmd17.tar.bz2", "uracil", target)
    damaged = (tmp_path / "rmd17.tar.bz2").read_bytes()
    (tmp_path / "rmd17.tar.bz2").write_bytes(damaged[: len(damaged) // 2])
    with pytest.raises(ValueError, match=r"rmd17\.tar\.bz2 is damaged or not a tar archive"):
        md17.unpack_revised(tmp_path / "rmd17.tar.bz2", "ethanol", tmp_path)


def test_whole_unpacked_archive_is_recognised(tmp_path):
    for name in ("rmd17/npz_data/rmd17_ethanol.npz", "rmd17/splits/index_train_01.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert md17.revised_file(tmp_path, "ethanol") == tmp_path / "rmd17/npz_data/rmd17_ethanol.npz"
    assert md17.revised_splits(tmp_path) == tmp_path / "rmd17/splits"
