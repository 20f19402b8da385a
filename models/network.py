"""The contract of a network: what it gives, what a task may ask of it, how it is found.

A network is one class in one file:

    @dataclasses.dataclass(frozen=True)
    class MyOptions(PotentialOptions):
        width: Annotated[int, "hidden width"] = 16

    @NETWORKS.register("my_network")
    class MyNetwork(EnergyNetwork):
        Options = MyOptions

        def __init__(self, options: MyOptions): ...
        def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
            return {"atomic_energy": ...}                     # (nodes,)

From then on ``build_model({"name": "my_network"})`` makes it, training scripts offer it as
``--model my_network`` with its options as flags, and checkpoints rebuild it. A network of energies
becomes a potential with forces and stress by ``models.potential.Potential``, which wraps it from
outside. :func:`models.network_check.check_network` says whether a network keeps the contract.

Units are fixed: eV, Angstrom, eV/Angstrom, eV/Angstrom^3, e.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.choices import Registry
from farfield.models.layers.conditioning import parse_inputs

POTENTIAL = "potential"
PROPERTIES = "properties"
NBODY = "nbody"
DENOISING = "denoising"
"""What a network of noised protein backbones predicts.

It reads a batch (dataloader.datasets.backbone_data): ``positions`` (nodes, 3), noised, Angstrom;
``atomic_numbers`` (nodes,); ``node_features["tokens"]`` (nodes,) int64, which of 84 kinds an atom
is: 4 * type of its residue (20 standard ones, 20: unknown) + 0 .. 3 for N, CA, C, O;
``edge_features["hops"]`` (edges,) int64, number of covalent bonds between the ends of an edge, 0
for more than the task tells; ``cutoff``: every pair closer than this is an edge, bonded pairs may
be edges at any distance. It gives ``displacement`` (nodes, 3), Angstrom: clean = noised +
displacement.
"""
DIFFUSION = "diffusion"
"""What a network of a diffusion over molecules predicts.

It reads a batch: ``positions`` (nodes, 3), noised by models.diffusion.process, Angstrom;
``atomic_numbers`` (nodes,); ``graph``, all pairs of each molecule, whatever cutoff fades them;
``graph_features["time"]`` (graphs,) in [0, 1], from the molecule to noise, where the time is known.
It gives one or both of

    noise  (nodes, 3), dimensionless, the eps in the positions; its mean over a molecule is zero
    time   (nodes,), guess of the time from the positions alone, one for each atom; not held in
           [0, 1]

and ``outputs()`` says which. A network with both that is told no time finds the noise for the time
that it guesses. models.heads.diffusion_heads makes both from features of atoms.
"""


class Output(NamedTuple):
    """One prediction of a network.

    rows: "graph" or "node". kind: how it turns with the structure, "scalar", "vector" (..., 3),
    "vectors" (..., 3 k), or "tensor" (..., 3, 3). unit: "" for dimensionless. open_only: whether
    batches with periodic structures do not have it. columns: number of scalars of a row, None for
    one alone, without an axis of its own.
    """

    rows: str
    kind: str
    unit: str = ""
    open_only: bool = False
    columns: int | None = None


class Network(nn.Module, abc.ABC):
    """What every network gives.

    Class attributes

    Options   frozen dataclass of its options (``models.option_fields``); ``Options()`` is valid
    presets   name -> option values by flat name; ``small`` is the default
    predicts  what it is trained for: "potential", "properties", "nbody", "denoising",
              "diffusion", or a word of a task of one's own
    reads_basis  whether it reads the cached basis of the edges (``batch.edge_basis``)
    parts     name of a part -> first words of the names of its weights, for ``--freeze``; of
              ``layers`` the number of a layer follows them

    Attributes

    options   instance of ``Options``; the constructor sets it
    """

    Options: ClassVar[type]
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"small": {}}
    predicts: ClassVar[str]
    reads_basis: ClassVar[bool] = False
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    options: Any

    config: dict
    """Name and all options by flat name; set by ``models.factory.build_model``."""

    @abc.abstractmethod
    def forward(self, batch: AtomBatch) -> dict[str, Tensor]:
        """Predictions by name; see :meth:`outputs`."""

    @abc.abstractmethod
    def outputs(self) -> dict[str, Output]:
        """What ``forward`` returns, by name."""

    @classmethod
    def present_weight_name(cls, name: str) -> str:
        """Name of a weight today, given its name in a checkpoint of format 2."""
        return name

    def weight_parts(self) -> dict[str, tuple[str, ...]]:
        """``parts`` with the names that the weights have in this module."""
        return dict(self.parts)

    @property
    def cutoff(self) -> float | None:
        """Reach of the edges that the network needs, Angstrom; None where it takes any graph."""
        return getattr(self.options, "cutoff", None)

    @property
    def inputs(self) -> list[str]:
        """Further inputs of a structure or of its atoms that the network reads, by name."""
        return parse_inputs(getattr(self.options, "condition", None))

    @property
    def remarks(self) -> list[str]:
        """What a user of a network with these options should know, a line each."""
        return []

    @property
    def energy_steps(self) -> str | None:
        """Which choice makes the energy a staircase, whose slope is no force; None where none does.

        Such a network is evaluated, but gives no conservative forces and runs no dynamics.
        """
        return None

    def round_products(self) -> None:
        """From now on, take products of linear maps in bfloat16 while training.

        See ``layers/rounded_products.py``. Raises ValueError where a network has no such maps.
        """
        layers = [layer for layer in self.modules() if hasattr(layer, "rounded")]
        if not layers:
            raise ValueError(
                f"--precision bf16-mixed: {type(self).__name__} has no products that it may round; "
                "type --precision float32"
            )
        for layer in layers:
            layer.rounded = True

    @property
    def optional_inputs(self) -> list[str]:
        """Inputs of a structure that the network reads where the data have them, by name.

        A batch has them in ``graph_features`` whenever its structures have them; the network must
        do without where they have not. Charges read the total charge, unless ``condition`` names
        it; structures without one count as neutral.
        """
        if getattr(self.options, "charges", "none") == "none":
            return []
        return [name for name in ("total_charge",) if name not in self.inputs]


class EnergyNetwork(Network):
    """A network of energies: the part of a potential that is learned.

    ``forward`` gives ``atomic_energy`` (nodes,), in units of the potential's scale, and may give
    ``graph_energy`` (graphs,), in eV, ``direct_forces`` (nodes, 3), in units of the scale per
    Angstrom, and whatever else ``outputs`` names, which the potential hands on. It reads positions
    and cell from the batch and leaves derivatives to the potential.

    several_heads: whether it can give (nodes, heads) instead, one column for each of the names of
    ``options.energy_heads`` (see ``heads/per_set.py``).
    """

    predicts = POTENTIAL
    several_heads: ClassVar[bool] = False

    def outputs(self) -> dict[str, Output]:
        return {"atomic_energy": Output("node", "scalar")}

    def recompute_parts(self) -> None:
        """From now on, make temporaries of training again for derivatives instead of keeping them.

        Predictions and gradients stay what they are, up to rounding. Raises ValueError where a
        network cannot.
        """
        raise ValueError(
            f"--recompute: {type(self).__name__} keeps all that it computes; leave it out, or "
            "choose --model e2former"
        )


# importing a module of this folder registers its networks
NETWORKS: Registry[type[Network]] = Registry("network", package="farfield.models.networks")
