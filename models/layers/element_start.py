"""How the learned vectors of elements start.

    random          independent normal numbers: nothing is known of any element
    periodic_table  sqrt(1 - s^2) normal + s P W / (spread over the elements),   s^2 = ``SHARE``

with the properties P of an element (period, electrons in its s, p, d and f shells, covalent radius;
each with mean 0 and spread 1 over the elements) and a random map W. Elements of one group then
start alike, so a set of many elements, each in few structures, tells of one what it has seen of
another. All of it is learned further. Cost: at the start alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from farfield.models.choices import Registry
from farfield.models.elements import MAX_ATOMIC_NUMBER

SHARE = 0.6  # of the variance of a start that the periodic table decides
NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)

# name -> changes the start of an embedding of elements (119, size) in place
ELEMENT_STARTS: Registry[Callable[[nn.Embedding], None]] = Registry("element start")


@ELEMENT_STARTS.register("random")
def start_random(embedding: nn.Embedding) -> None:
    """Keep torch's start."""


@ELEMENT_STARTS.register("periodic_table")
def start_from_periodic_table(embedding: nn.Embedding) -> None:
    """Elements of similar properties start with similar vectors."""
    weight = embedding.weight
    properties = element_properties().to(weight)

    # every column with mean 0 and spread 1 over the elements; row 0 is no element
    vectors = standardised(properties @ torch.randn(properties.shape[1], weight.shape[1]))
    with torch.no_grad():
        mixed = (1 - SHARE) ** 0.5 * weight[1:] + SHARE**0.5 * vectors
        weight[1:] = mixed


def nearest_elements(new: Iterable[int], known: Sequence[int]) -> dict[int, int]:
    """The known element that is most like each new one: smallest distance of their properties.

    Of equally near ones the lighter. ValueError where no element is known.

    >>> nearest_elements([7, 16], [1, 6, 8])
    {7: 6, 16: 8}
    """
    known = sorted(known)
    if not known:
        raise ValueError("there is no known element that a new one could start from")
    properties = element_properties()
    rows = properties[torch.tensor(known) - 1]
    found = {}
    for number in new:
        distance = (rows - properties[number - 1]).norm(dim=1)
        found[number] = known[int(distance.argmin())]
    return found


def copy_rows(embedding: nn.Embedding, origin: Mapping[int, int]) -> None:
    """Give elements the vectors of others in an embedding of elements: Z -> Z that is copied."""
    with torch.no_grad():
        for number, other in origin.items():
            embedding.weight[number] = embedding.weight[other]


def element_tables(network: nn.Module) -> list[nn.Embedding]:
    """All embeddings in a network that have one row for every element."""
    return [
        module
        for module in network.modules()
        if isinstance(module, nn.Embedding) and module.num_embeddings == MAX_ATOMIC_NUMBER + 1
    ]


def element_properties() -> Tensor:
    """Period, electrons in s, p, d and f shells above the last noble gas, covalent radius of every
    element, standardised (118, 6) float64; row 0 is hydrogen.

    Radii: Cordero et al. 2008, as ``ase.data`` has them.
    """
    from ase.data import covalent_radii  # half a second that other networks do not wait for

    rows = []
    for number in range(1, MAX_ATOMIC_NUMBER + 1):
        period = next(k for k, noble in enumerate(NOBLE_GASES) if number <= noble)
        rows.append([period, *shells(number, period), covalent_radii[number]])
    return standardised(torch.tensor(rows, dtype=torch.float64))


def shells(number: int, period: int) -> tuple[int, int, int, int]:
    """Electrons in the s, p, d and f shells above the last noble gas, filled in the order s f d p.

    >>> shells(26, 4)
    (2, 0, 6, 0)
    """
    left = number - NOBLE_GASES[period - 1]
    width = NOBLE_GASES[period] - NOBLE_GASES[period - 1]
    s = min(left, 2)
    f = min(left - s, 14 if width >= 32 else 0)
    d = min(left - s - f, 10 if width >= 18 else 0)
    return s, left - s - f - d, d, f


def standardised(table: Tensor) -> Tensor:
    """Columns less their mean, divided by their spread."""
    return (table - table.mean(0)) / table.std(0, correction=0)
