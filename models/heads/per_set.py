"""One energy head and one set of energy constants for each of several data sets.

Sets of different levels of theory share all layers of a network and part at its end: set h has a
readout, reference energies, shift and scale of its own,

    E = sum_i ( reference_h[Z_i] + shift_h + scale_h e_ih ).

A batch says in ``graph_features["set_index"]`` which set each structure belongs to. A network of
one head is what stands here with ``single_head``: inference chooses the head once. Cost: all heads
are evaluated, each two linear maps of an atom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.choices import check_choice
from farfield.models.graph_ops import GraphIndex
from farfield.models.heads.energy import AtomicReference

SET_INDEX = "set_index"  # graph feature: number of the set of each structure, int64


def head_names(text: str | None) -> tuple[str, ...]:
    """Names of the heads of an option; none for a network with one head.

    >>> head_names("water,salts")
    ('water', 'salts')

    ``ValueError`` for a single name, an empty one and one that occurs twice.
    """
    if text is None:
        return ()
    names = tuple(word.strip() for word in text.split(","))
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise ValueError(
            f"energy_heads must be two or more different names joined by commas, got {text!r}; "
            "leave it out for one head"
        )
    return names


class PerSet(nn.Module):
    """Copies of a readout, one for each head: ``forward(x) -> (nodes, heads)``.

    make: makes a readout, which gives (nodes,) or (nodes, 1).
    """

    def __init__(self, heads: int, make: Callable[[], nn.Module]):
        super().__init__()
        self.heads = nn.ModuleList(make() for _ in range(heads))

    def forward(self, x: Tensor) -> Tensor:
        """Energies of all heads (nodes, heads)."""
        return torch.stack([head(x).view(len(x)) for head in self.heads], 1)


def energy_readout(names: str | None, make: Callable[[], nn.Module]) -> nn.Module:
    """The readout of a network: one, or one for each head that the option names."""
    heads = len(head_names(names))
    return PerSet(heads, make) if heads else make()


def heads_of_structures(batch: AtomBatch, heads: int) -> Tensor:
    """Number of the head of each structure (graphs,) int64; ``ValueError`` where none is said."""
    found = batch.graph_features.get(SET_INDEX)
    if found is None:
        raise ValueError(
            f"the network has {heads} energy heads and the batch does not say which one each "
            f"structure takes; choose a head (--head NAME), or give graph_features[{SET_INDEX!r}]"
        )
    return found


class SetReferences(nn.Module):
    """Constants of the energy of each head: :class:`AtomicReference` of every set.

    It has the methods of one reference, given the batch.
    """

    def __init__(self, names: tuple[str, ...]):
        super().__init__()
        self.names = names
        self.heads = nn.ModuleList(AtomicReference() for _ in names)

    def set(self, energies: Mapping[int, float], scale: float = 1.0, shift: float = 0.0) -> None:
        """The same constants for every head."""
        for head in self.heads:
            head.set(energies, scale, shift)

    def scale_of(self, head_of_node: Tensor) -> Tensor:
        """Scale of the learned energy of every node (nodes,) float64."""
        scales = torch.stack([head.scale for head in self.heads])
        return scales.index_select(0, head_of_node)

    @property
    def known(self) -> Tensor:
        """Elements that some head knows (119,) bool."""
        return torch.stack([head.known for head in self.heads]).any(0)

    def values(self) -> dict[int, float]:
        """Elements that some head knows, with the energies of the first such head."""
        found: dict[int, float] = {}
        for head in self.heads:
            found = head.values() | found
        return dict(sorted(found.items()))

    def of_graphs(self, graph: GraphIndex, atomic_numbers: Tensor, head_of_graph: Tensor) -> Tensor:
        """Constant part of the energy of every graph (graphs,) float64.

        ``ValueError`` for an element that the head of its structure does not know.
        """
        head_of_node = head_of_graph.index_select(0, graph.graph_of_node)
        total = torch.zeros(graph.num_graphs, dtype=torch.float64, device=head_of_graph.device)
        for number, head in enumerate(self.heads):
            # atoms of other heads count as none: any known element, energy zero
            own = head_of_node == number
            if not bool(own.any()):
                continue
            some = int(head.known.nonzero()[0])
            energies = head(graph, torch.where(own, atomic_numbers, some))
            chosen = head_of_graph == number
            total = torch.where(chosen, energies, total)
        return total


def single_head_weights(model: nn.Module, name: str) -> dict[str, Tensor]:
    """Weights of the network that has only the head ``name`` of ``model``, a potential.

    ``ValueError`` for a name that is no head.
    """
    check_choice("head", name, model.heads)
    own = f".heads.{model.heads.index(name)}."
    several = [
        place for place, part in model.named_modules() if isinstance(part, (PerSet, SetReferences))
    ]

    # readouts and constants of a head stand under its number
    found = {}
    for key, value in model.state_dict().items():
        place = next((place for place in several if key.startswith(f"{place}.heads.")), None)
        if place is None:
            found[key] = value
        elif key.startswith(place + own):
            found[f"{place}.{key.removeprefix(place + own)}"] = value
    return found
