"""Pickles are read without running anything of theirs."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from farfield.dataloader.sources.plain_pickles import read_plain_pickle

ARRAYS = {
    "matrix": np.arange(6.0).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "big": np.arange(3, dtype=">f4"),
    "truth": np.array([True, False]),
    "none": np.zeros((0, 3)),
    "text": np.array(["ab", "c"]),
    "number": np.float32(2.5),
    "tensor": torch.arange(12.0).reshape(3, 4).t(),
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_numbers_and_text_come_out_as_they_are(protocol):
    value = ARRAYS | {"nested": [1, (2.5, None), {"a": "b"}], "ordered": OrderedDict(x=1)}
    found = read_plain_pickle(pickle.dumps(value, protocol))
    for name, array in ARRAYS.items():
        assert np.array_equal(found[name], np.asarray(array)), name
    assert found["nested"] == value["nested"] and found["ordered"] == {"x": 1}


class Runs:
    """What a malicious pickle does: it names a function and its arguments."""

    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("named", "call"),
    [
        ("posix.mkdir", lambda path: (os.mkdir, (path,))),
        ("builtins.eval", lambda path: (eval, (f"__import__('os').mkdir({path!r})",))),
        ("builtins.getattr", lambda path: (getattr, (str, "upper"))),
        ("torch.serialization.load", lambda path: (torch.load, (path,))),
    ],
)
@pytest.mark.parametrize("wrapped", [lambda one: one, lambda one: {"pos": [one]}])
def test_no_code_of_a_pickle_runs(tmp_path, named, call, wrapped):
    path = str(tmp_path / "made")
    content = pickle.dumps(wrapped(Runs(call(path))))
    with pytest.raises(ValueError, match=f"names {named}, which could run code; only"):
        read_plain_pickle(content)
    assert not os.path.exists(path)


def test_code_inside_the_bytes_of_a_tensor_does_not_run(tmp_path):
    path = str(tmp_path / "made")
    inner = pickle.dumps(Runs((os.mkdir, (path,))))
    content = pickle.dumps(Runs((torch.storage._load_from_bytes, (inner,))))
    with pytest.raises(ValueError, match="damaged"):
        read_plain_pickle(content)
    assert not os.path.exists(path)


def test_arrays_of_objects_and_halves_are_refused():
    with pytest.raises(ValueError, match="array of Python objects"):
        read_plain_pickle(pickle.dumps(np.array([{}, 1], object)))
    whole = pickle.dumps(ARRAYS)
    for kept in (0, 1, 30, len(whole) // 2, len(whole) - 1):
        with pytest.raises(ValueError, match="the pickle"):
            read_plain_pickle(whole[:kept])
