"""Energy and forces of one structure that does not fit into memory, layer by layer in pieces.

    x_0 = start(edges)        x_(k+1) = layer_k(x_k, edges, far_k)        E = sum_i energy(x_L,i)

An edge carries the features of a layer to a neighbour and no farther, so the atoms of a piece need
x_k of themselves and of the atoms around them alone (``piece_steps.py``), and the messages far_k,
whose sum over all atoms is divided by ``far_field/divided_sum.py``. x_k of all atoms is kept for
every layer. Backwards, a layer is computed again piece by piece, and its vector-Jacobian product

    dE/dx_(k+1) of the atoms of a piece  ->  dE/dx_k and dE/dr of its atoms and its halo,  dE/dcell

is added up. Nothing is cut off: up to rounding, ``models/potential.py`` gives the same.
Several processes take different pieces; ``share`` adds up features, grids and gradients.

Memory: L + 1 arrays of N (lmax + 1)^2 channels values for L layers, the grids of the far field, and
one piece with its temporaries. Time: one and a half to two undivided evaluations. Each process adds
up 2 L such arrays and the grids: docs/results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.far_field.divided_sum import Sent, Space, Work, divided_sum, gradients
from farfield.models.far_field.expansions.lattice import periodic_cell
from farfield.models.networks.e2former import E2Former
from farfield.models.networks.piece_steps import Layer, Piece, PieceSteps
from farfield.models.potential import Potential, check_volume_of_stress, volumes


def check_divisible(potential: Potential) -> None:
    """ValueError in one line for a potential that cannot be computed in pieces."""
    network = potential.network
    if not isinstance(network, E2Former):
        raise ValueError(
            f"the network {type(network).__name__} is not computed in pieces; give the checkpoint "
            "of an e2former"
        )
    if potential.forces != "conservative":
        raise ValueError(
            f"forces {potential.forces!r} are not computed in pieces; give a checkpoint trained "
            "with --forces conservative"
        )
    if potential.heads:
        raise ValueError(f"choose one of the energy heads {', '.join(potential.heads)}")
    if potential.energy_steps is not None:
        raise ValueError(f"the checkpoint has no forces: {potential.energy_steps}")

    # what looks at the whole structure at once
    whole = {
        "clusters of atoms (--with-cluster)": network.backbone.clusters,
        "an encoder": network.backbone.encoder,
        f"charges {network.options.charges}": network.charges,
    }
    for what, part in whole.items():
        if part is not None:
            raise ValueError(
                f"the network has {what}: they see the whole structure at once and are not "
                "computed in pieces; give a checkpoint trained without"
            )


class DividedPotential:
    """A potential and one structure in pieces: ``evaluate() -> energy, forces, stress``.

    Arguments
        potential  what is computed, in evaluation mode; ValueError for one that cannot be divided
        structure  all atoms without edges, one graph, in the type of the potential
        pieces     those of this process; together with the others' they cover the structure
        stress     whether there is a stress; ValueError for a structure without volume
        share      adds a tensor up over all processes, in place
        first      whether this process computes what is not divided
        done       called after every piece of every step, ``steps`` times in all
    """

    def __init__(
        self,
        potential: Potential,
        structure: AtomBatch,
        pieces: Sequence[Piece],
        *,
        stress: bool = False,
        share: Callable[[Tensor], object] = lambda tensor: None,
        first: bool = True,
        done: Callable[[], object] = lambda: None,
    ):
        check_divisible(potential)
        potential.check(structure)
        self.potential, self.structure, self.pieces = potential, structure, pieces
        self.stress, self.share, self.done = stress, share, done
        self.steps_of = PieceSteps(potential.network, structure)
        self.layers = self.steps_of.layers
        self.cell = None if structure.cell is None else structure.cell[0]
        if stress:
            self._check_stress()
        self._divide_far_fields(first)

    def _check_stress(self) -> None:
        structure = self.structure
        if structure.cell is None or not bool(structure.periodic.all()):
            raise ValueError(
                "stress needs a structure that repeats in all three directions; leave --stress out"
            )
        check_volume_of_stress(structure.cell, structure.periodic)

    def _divide_far_fields(self, first: bool) -> None:
        """The sum over all atoms of every layer that has a far field."""
        structure, cell = self.structure, None
        if any(layer.far is not None for layer in self.layers):
            cells = periodic_cell(1, structure.cell, structure.periodic)
            cell = None if cells is None else cells[0]
        space = Space(structure.positions, cell)
        work = Work([piece.own for piece in self.pieces], self.share, first, self.done)
        self.sums = [
            None if layer.far is None else divided_sum(layer.far, layer.weight, space, work)
            for layer in self.layers
        ]

    @property
    def steps(self) -> int:
        """How often ``done`` is called."""
        far = sum(2 + one.steps for one in self.sums if one is not None)
        return len(self.pieces) * (2 * len(self.layers) + 1 + far)

    def evaluate(self) -> dict[str, Tensor]:
        """``energy`` () float64, eV; ``forces`` (atoms, 3), eV/Angstrom, and if asked for
        ``stress`` (3, 3), eV/Angstrom^3, in the type of the positions.
        """
        with torch.no_grad():
            features, sent, heard = self._forward()

        # gradients by positions and by the cell, float64, which every step backwards adds to
        self.by = Space(
            torch.zeros_like(self.structure.positions, dtype=torch.float64),
            torch.zeros_like(self.cell, dtype=torch.float64) if self.stress else None,
        )
        with torch.enable_grad():
            energy = self._backward(features, sent, heard)
        self.share(energy)
        self.share(self.by.positions)

        energy = energy + self.potential.reference_energy(self.structure)[0]
        out = {"energy": energy, "forces": -self.by.positions.to(self.structure.positions.dtype)}
        if self.stress:
            self.share(self.by.cell)
            out["stress"] = self._stress()
        return out

    def _stress(self) -> Tensor:
        """Gradient by a strain that moves atoms and cell, divided by the volume."""
        of_atoms = self.structure.positions.double().T @ self.by.positions
        strain = of_atoms + self.cell.double().T @ self.by.cell
        volume = volumes(self.structure).double()
        return ((strain + strain.T) / (2 * volume)).to(self.cell.dtype)

    def _forward(self) -> tuple[list[Tensor], list[Sent | None], list[Tensor | None]]:
        """What every layer reads: features of all atoms, what its far field sends and hears."""
        steps, x = self.steps_of, self._zero_features()
        for piece in self.pieces:
            x[piece.own] = steps.start(piece, self._space(piece))
            self.done()
        self.share(x)

        features, sent, heard = [x], [], []
        for index, (layer, far) in enumerate(zip(self.layers, self.sums, strict=True)):
            sent.append(None if far is None else self._sent(layer, x))
            heard.append(None if far is None else far.value(sent[-1]))
            if index == len(self.layers) - 1:
                break  # the last layer is computed with its gradient

            x = self._zero_features()
            for piece in self.pieces:
                own = None if far is None else heard[-1][piece.own]
                read = features[-1][steps.heard_atoms(layer, piece)]
                x[piece.own] = steps.layer(layer, piece, self._space(piece), read, own)
                self.done()
            self.share(x)
            features.append(x)
        return features, sent, heard

    def _zero_features(self) -> Tensor:
        """Zeros for features of all atoms (atoms, rows, channels)."""
        options = self.steps_of.backbone.options
        atoms, rows = self.structure.num_nodes, (options.lmax + 1) ** 2
        return self.structure.positions.new_zeros(atoms, rows, options.channels)

    def _sent(self, layer: Layer, x: Tensor) -> Sent:
        """What the far field of a layer reads of the atoms of this process, zeros elsewhere."""
        like = self.steps_of.send(layer, x[:1])
        found = Sent(*(one.new_zeros(len(x), *one.shape[1:]) for one in like))
        for piece in self.pieces:
            parts = self.steps_of.send(layer, x[piece.own])
            for one, part in zip(found, parts, strict=True):
                one[piece.own] = part
            self.done()
        return found

    def _backward(
        self, features: list[Tensor], sent: list[Sent | None], heard: list[Tensor | None]
    ) -> Tensor:
        """Energy that this process's atoms learned, () float64; gradients go to ``self.by``.

        The lists lose what is done with.
        """
        energy, by_x = features[0].new_zeros((), dtype=torch.float64), None
        for layer, far in zip(reversed(self.layers), reversed(self.sums), strict=True):
            x, own_heard, by_out = features.pop(), heard.pop(), by_x
            by_x = torch.zeros_like(x)
            by_heard = None if far is None else torch.zeros_like(own_heard)
            for piece in self.pieces:
                energy += self._pull_layer(layer, piece, (x, own_heard), by_out, (by_x, by_heard))
                self.done()
            self.share(by_x)

            # from here on rows of own atoms alone count
            by_out = None
            if far is not None:
                by_sent = far.pull(sent[-1], by_heard, self.by)
                self._pull_sent(layer, x, by_sent, by_x)
            sent.pop()

        for piece in self.pieces:
            space, leaves = self._moving(piece)
            start = self.steps_of.start(piece, space)
            self._add_moved(piece, gradients(start, leaves, by_x[piece.own]))
            self.done()
        return energy

    def _pull_layer(
        self,
        layer: Layer,
        piece: Piece,
        inputs: tuple[Tensor, Tensor | None],
        by_out: Tensor | None,
        by_inputs: tuple[Tensor, Tensor | None],
    ) -> Tensor:
        """Add the gradients by what a layer reads for a piece; its energy, 0 but in the last layer.

        inputs: features and what the far field hears, of all atoms; by_inputs: their gradients.
        by_out: gradient by what the layer gives, None after the last one: the energy follows.
        """
        atoms = self.steps_of.heard_atoms(layer, piece)
        space, moved = self._moving(piece)
        x, heard = inputs
        leaves = [x[atoms].detach().requires_grad_(True)]
        if heard is not None:
            leaves.append(heard[piece.own].detach().requires_grad_(True))
        out = self.steps_of.layer(layer, piece, space, leaves[0], (*leaves, None)[1])

        # the last layer ends in the energy
        energy = out.new_zeros((), dtype=torch.float64)
        cotangent = None if by_out is None else by_out[piece.own]
        if by_out is None:
            learned = self.potential.reference.scale * self.steps_of.energies(out).double()
            out = learned.sum()
            energy = out.detach()
        found = gradients(out, [*moved, *leaves], cotangent)

        self._add_moved(piece, found)
        by_x, by_heard = by_inputs
        if isinstance(atoms, slice):
            by_x[atoms] += found[len(moved)]
        else:
            by_x.index_add_(0, atoms, found[len(moved)])
        if heard is not None:
            by_heard[piece.own] = found[-1]
        return energy

    def _pull_sent(self, layer: Layer, x: Tensor, by_sent: Sent, by_x: Tensor) -> None:
        """Add the gradient through what the far field reads to rows of ``by_x``."""
        for piece in self.pieces:
            own = x[piece.own].detach().requires_grad_(True)
            sent = self.steps_of.send(layer, own)
            cotangents = [one[piece.own] for one in by_sent]
            by_x[piece.own] += torch.autograd.grad(sent, own, cotangents)[0]
            self.done()

    def _space(self, piece: Piece) -> Space:
        """Positions of the atoms of a piece and its halo, and the cell."""
        return Space(self.structure.positions[piece.atoms], self.cell)

    def _moving(self, piece: Piece) -> tuple[Space, list[Tensor]]:
        """The same as leaves of a gradient, and those that are asked for."""
        positions, cell = self._space(piece)
        leaves = [positions.requires_grad_(True)]
        if self.stress:
            cell = cell.detach().requires_grad_(True)
            leaves.append(cell)
        return Space(positions, cell), leaves

    def _add_moved(self, piece: Piece, found: Sequence[Tensor]) -> None:
        """Add gradients by the leaves of :meth:`_moving` to those of the structure."""
        self.by.positions.index_add_(0, piece.atoms, found[0].double())
        if self.stress:
            self.by.cell.add_(found[1])
