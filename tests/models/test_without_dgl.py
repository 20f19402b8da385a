"""Without DGL: the laws of one small network of each kind hold on the kernels of torch."""

import re

from tests.support.processes import run_script

# file of a network -> its suite, and one case of it
LAWS = {
    "tests/models/networks/test_e2former.py": "TestE2Former and hybrid-auto",
    "tests/models/networks/test_se3_transformer.py": "TestSE3Transformer and nbody-no-motion",
    "tests/models/networks/test_property_networks.py": "TestProperties and e2former-second-order",
}
ABSENT = f"""
import sys

sys.modules["dgl"] = None  # importing it raises ImportError
from farfield.models.graph_ops import dgl_is_there

assert not dgl_is_there()
import pytest

chosen = " or ".join(f"({{laws}})" for laws in {list(LAWS.values())})
plugins = ["-p", "no:cacheprovider", "-p", "no:xdist"]
sys.exit(pytest.main(["-o", "addopts=-q", *plugins, "-k", chosen, *{list(LAWS)}]))
"""


def test_laws_hold_without_dgl():
    done = run_script("-c", ABSENT)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    laws_of_a_network = 15  # most of them in two precisions
    assert passed >= laws_of_a_network * len(LAWS)


BROKEN = """
import sys
import warnings

sys.path.insert(0, sys.argv[1])
from farfield.common.checkpoint import recorded_versions
from farfield.models.graph_ops import dgl_is_there

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    answers = [dgl_is_there() for _ in range(2)]
print(answers, recorded_versions()["kernels"], *(str(one.message) for one in caught), sep=" | ")
"""


def test_a_broken_dgl_is_named_once_and_recorded_as_unused(tmp_path):
    (tmp_path / "dgl").mkdir()
    (tmp_path / "dgl" / "__init__.py").write_text("import torchdata_of_long_ago")
    done = run_script("-c", BROKEN, str(tmp_path))
    assert done.returncode == 0, done.stderr
    answers, kernels, *messages = done.stdout.strip().split(" | ")
    assert (answers, kernels) == ("[False, False]", "torch")
    (message,) = messages
    assert message.startswith(
        "dgl is installed but cannot be imported (No module named 'torchdata_of_long_ago')"
    )
