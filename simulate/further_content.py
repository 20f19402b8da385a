"""What a structure of ASE holds besides its geometry and motion, as text that keeps every bit.

Constraints, ``info`` and all further arrays (tags, initial charges, ...), for the state of a run:
a resumed run goes on with the same structure, so fixed atoms stay fixed. Constraints and json of
ASE are imported where they are used: they cost half a second.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

if TYPE_CHECKING:
    from ase.constraints import FixConstraint

OF_GEOMETRY_AND_MOTION = ("numbers", "positions", "momenta", "masses")


def further_content(atoms: Atoms) -> str:
    """Constraints, info and further arrays of ``atoms`` as text.

    ValueError in one line for a constraint that ASE cannot write. Values of ``info`` that are no
    numbers, words or lists of them are left out.
    """
    from ase.io.jsonio import encode

    arrays = {
        name: values for name, values in atoms.arrays.items() if name not in OF_GEOMETRY_AND_MOTION
    }
    return encode(
        {
            "constraints": [_written(constraint) for constraint in atoms.constraints],
            "info": {name: value for name, value in atoms.info.items() if _is_plain(value)},
            "arrays": arrays,
        }
    )


def add_further_content(atoms: Atoms, text: str) -> None:
    """Give ``atoms`` what :func:`further_content` wrote of the structure that they are."""
    from ase.constraints import dict2constraint
    from ase.io.jsonio import decode

    content = decode(text)
    for name, values in content["arrays"].items():
        atoms.set_array(name, np.asarray(values))
    atoms.info.update(content["info"])
    atoms.set_constraint([dict2constraint(one) for one in content["constraints"]])


def _written(constraint: FixConstraint) -> dict:
    import ase.constraints
    from ase.io.jsonio import decode, encode

    try:
        written = decode(encode(constraint.todict()))
        if written["name"] not in ase.constraints.__all__:
            raise NotImplementedError
        # measured at its first use, and left out by ASE
        lengths = getattr(constraint, "bondlengths", None)
        if lengths is not None:
            written["kwargs"]["bondlengths"] = np.asarray(lengths)
        return written
    except (AttributeError, NotImplementedError, TypeError):
        kind = type(constraint).__name__
        raise ValueError(
            f"the structure has a constraint {kind}, which cannot be kept for --resume; remove it "
            "or use another one of ase.constraints"
        ) from None


def _is_plain(value: object) -> bool:
    """Whether json and ASE read back what they write."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufU"
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False
