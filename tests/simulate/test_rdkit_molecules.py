"""Molecules handed to RDKit: SMILES that chemists know. Skipped where RDKit is not installed."""

import pytest

from farfield.dataloader.chemistry.bond_rules import BOND_RULES
from farfield.dataloader.structures import Structures
from farfield.simulate.molecule_metrics import MetricOptions, identities, molecule_table
from farfield.simulate.rdkit_molecules import canonical_smiles, rdkit_molecules
from tests.support.hand_made_molecules import ammonium, bromochlorofluoromethane, mirrored, moved
from tests.support.qm9_data import molecules

pytest.importorskip("rdkit", reason="rdkit is not installed: pip install rdkit")

SMILES = {
    "CH4": "C",
    "CH3": "[CH3]",  # no hydrogen is added to a radical
    "CO2": "O=C=O",
    "HCN": "C#N",
    "C6H6": "c1ccccc1",
    "CH3CH2OH": "CCO",
    "CH3NO2": "C[N+](=O)[O-]",
    "C4H4NH": "c1cc[nH]c1",
    "H2": "[H][H]",
}


def test_smiles_of_known_molecules():
    whole = molecules(SMILES)
    found = canonical_smiles(whole, BOND_RULES["perceived"](whole))
    assert dict(zip(SMILES, found, strict=True)) == SMILES


def test_mirror_images_have_one_smiles():
    one = bromochlorofluoromethane()
    for other in (one, mirrored(one), moved(one)):
        assert canonical_smiles(other, BOND_RULES["edm"](other)) == ["FC(Cl)Br"]


def test_what_rdkit_refuses():
    """Neutral nitrogen with four bonds; its key stands for it."""
    whole = Structures.concatenate([molecules(["NH3"]), ammonium()])
    bonds = BOND_RULES["edm"](whole)
    kept = [one is not None for one in rdkit_molecules(whole, bonds, "a test")]
    assert kept == [True, False]
    assert canonical_smiles(whole, bonds) == ["N", None]
    named = identities(whole, bonds, "smiles")
    assert named[0] == "N"
    assert named[1] == identities(whole, bonds, "graph")[1]
    assert molecule_table(whole, options=MetricOptions(rdkit_validity=True))["valid_rdkit"] == 0.5
    assert molecule_table(whole)["identity"] == "smiles"


def test_both_identities_agree_on_real_molecules():
    names = ("CH4", "C2H6", "CH3CH2OH", "CH3OCH3", "isobutane", "trans-butane", "C2H4")
    whole = Structures.concatenate([molecules(names), moved(molecules(names))])
    tables = [
        molecule_table(whole, training=molecules(names[:3]), options=MetricOptions(identity=one))
        for one in ("smiles", "graph")
    ]
    for name in ("valid_molecules", "unique", "unique_molecules", "novel", "novel_molecules"):
        assert tables[0][name] == tables[1][name]
    assert tables[0]["unique"] == 0.5
