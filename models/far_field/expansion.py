"""What every expansion of the far field's kernel gives, its options, and the registry of all.

An expansion computes, for every atom i, a sum over all atoms j of the same graph,

    out_i[h, lm, v] = sum_j <q_ih, k_jh> f_lh(r_ij) Y_lm(r^_ij) v_j[h, v],
    f_lh(r)         = sum_q a_lhq j_l(kappa_q r),      r_ij = r_i - r_j,

with queries q, keys k and values v of head h, and spherical Bessel functions j_l. The atom itself
is one of the j: it contributes ``f_0(0)``. Expansions differ in cost and accuracy, not in the
formula.

A new expansion is one class in one file, with one line that registers it:

    @EXPANSIONS.register("my_expansion")
    class MyExpansion(Expansion):
        def forward(self, graph, positions, queries, keys, values, coefficients, cell=None): ...
        def expected_error(self, radius): ...
"""

from __future__ import annotations

import abc
import dataclasses
import warnings
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from torch import Tensor, nn

from farfield.models.choices import Registry, check_at_least, check_choices, check_positive
from farfield.models.far_field.spectral_shapes import SpectralShape
from farfield.models.graph_ops import GraphIndex
from farfield.models.option_fields import DERIVED
from farfield.models.so3.quadrature import RULES

LARGEST_RADIUS = 1000.0  # Angstrom; the error law of a larger one takes seconds
SLACK = 1e-5  # relative excess over the design radius that is rounding alone


@dataclasses.dataclass(frozen=True)
class ExpansionOptions:
    """Accuracy and memory of an expansion.

    tolerance: relative error of the kernel inside the design radius. design_radius: distance from
    the centroid (Angstrom) up to which ``tolerance`` holds; a larger graph brings one warning.
    budget: values in a temporary tensor. rule, directions: of plane waves, a name in ``RULES`` and
    the number of directions for every kappa (None: as many as ``tolerance`` needs). Raises
    ValueError for a tolerance outside (0, 0.1], lengths or budgets that are not positive, and
    unknown rules.
    """

    tolerance: Annotated[
        float, "relative error of the far field's multipole, planewave and mesh expansions"
    ] = 1e-4
    design_radius: Annotated[
        float,
        "radius of a structure up to which the tolerance of standing waves holds, Angstrom",
    ] = 10.0
    budget: Annotated[int, "values in a temporary tensor", DERIVED] = 2**22
    rule: Annotated[str, "quadrature rule of the planewave expansion", RULES] = "lebedev"
    directions: Annotated[
        int | None, "directions of the planewave expansion; none: as many as the tolerance needs"
    ] = None

    def __post_init__(self):
        of = "of the far field"
        check_choices(self, {"rule": RULES}, of)
        check_positive(self, ["design_radius"], of)
        check_at_least(self, 1, ["budget"], of)

        if not 0 < self.tolerance <= 0.1:
            raise ValueError(f"tolerance {of} must be in (0, 0.1], got {self.tolerance}")
        if self.design_radius > LARGEST_RADIUS:
            raise ValueError(
                f"design_radius {of} must be <= {LARGEST_RADIUS:g} Angstrom, got "
                f"{self.design_radius:g}; leave out a structure with an atom so far from the "
                "others, or give a smaller radius"
            )
        if self.directions is not None:
            RULES[self.rule].sized(self.directions)  # the error names the nearest size


class Expansion(nn.Module, abc.ABC):
    """One way to the sum over all atoms of a graph (formula in the text of this module).

    An expansion has no parameters, treats each graph of a batch as if it were alone, and is
    differentiable to any order in every tensor that it is called with.

    wave_numbers: kappa_q, Q numbers in 1 / Angstrom. lmax: highest degree of the kernel.

    Attributes
        cells: what the expansion does with periodic cells. "refused": open systems only.
            "needed": periodic systems only. "accepted": both.
    """

    cells: ClassVar[Literal["refused", "needed", "accepted"]] = "refused"
    largest_size: ClassVar[float] = 1000.0
    """Largest kappa x radius for which the memory of a sum over waves is reasonable."""

    def __init__(
        self, wave_numbers: tuple[float, ...], lmax: int, options: ExpansionOptions | None = None
    ):
        super().__init__()
        self.wave_numbers = tuple(wave_numbers)
        self.lmax = lmax
        self.options = options or ExpansionOptions()

    @classmethod
    def of_shape(cls, shape: SpectralShape, options: ExpansionOptions) -> nn.Module | None:
        """The sum for a kernel whose density is a function, where the class has one of its own.

        A module whose ``forward`` is that below, with ``coefficients`` (lmax + 1, heads, terms) of
        ``shape``. None: standing waves, as many as the extent of a structure needs, serve.
        """
        return None

    @abc.abstractmethod
    def forward(
        self,
        graph: GraphIndex,
        positions: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        coefficients: Tensor,
        cell: Tensor | None = None,
    ) -> Tensor:
        """The sum over all atoms of each graph: (nodes, heads, (lmax + 1)^2, V).

        positions: (nodes, 3), Angstrom. queries, keys: (nodes, heads, features). values: (nodes,
        heads, V). coefficients: a_lhq, (lmax + 1, heads, Q). cell: (graphs, 3, 3), rows are lattice
        vectors; None for open systems. Raises ValueError where :attr:`cells` forbids ``cell``.
        """

    @abc.abstractmethod
    def expected_error(self, radius: float) -> float:
        """Error of the kernel, relative to the kernel, in a ball of ``radius`` Angstrom.

        0.0 says exact up to rounding. Within ``options.design_radius`` every expansion that
        truncates keeps ``options.tolerance``.
        """

    def check_cell(self, graph: GraphIndex, cell: Tensor | None) -> None:
        """Raise ValueError for a cell that :attr:`cells` forbids, and for one of a wrong shape."""
        name = type(self).__name__

        # Open systems.
        if cell is None:
            if self.cells == "needed":
                raise ValueError(
                    f"{name} needs periodic cells ({graph.num_graphs}, 3, 3), got none; choose "
                    "expansion 'pairwise' or 'auto' for open systems"
                )
            return

        # Periodic systems.
        if self.cells == "refused":
            raise ValueError(
                f"{name} is for open systems, got periodic cells; choose expansion 'lattice' or "
                "'auto'"
            )
        if cell.shape != (graph.num_graphs, 3, 3):
            raise ValueError(
                f"cell must be ({graph.num_graphs}, 3, 3), rows are lattice vectors, got "
                f"{tuple(cell.shape)}"
            )

    def extra_repr(self) -> str:
        return f"lmax={self.lmax}"


# importing a module of this folder registers its expansion
EXPANSIONS: Registry[type[Expansion]] = Registry(
    "expansion", package="farfield.models.far_field.expansions"
)


class RadiusGuard:
    """Warns once, when an atom is so far out that the error exceeds the promised one.

    design_radius: Angstrom from the centroid. promised: relative error of the kernel inside it.
    """

    def __init__(self, design_radius: float, promised: float):
        self.design_radius, self.promised = design_radius, promised
        self._warned = False
        self._largest = design_radius * (1 + SLACK)  # no smaller radius needs a look

    def check(self, squared: Tensor, error: Callable[[float], float]) -> None:
        """Look at one batch; call it in the ``forward`` of an expansion.

        squared: squared distances from the centroids, (nodes,). error: radius -> expected error;
        it is called only for a radius larger than all before.
        """
        if self._warned or not squared.numel():
            return
        radius = float(squared.detach().max().sqrt())
        if not radius > self._largest:
            return
        self._largest = radius
        expected = error(radius)

        # Multipoles lose accuracy slowly: a little beyond the radius may still be good enough.
        if expected > self.promised:
            warnings.warn(
                f"an atom is {radius:.3g} Angstrom from its graph's centroid, beyond the design "
                f"radius {self.design_radius:g}: the far field's error may reach {expected:.1e} "
                f"instead of {self.promised:.1e}; make the design radius (far_design_radius of a "
                f"network) {radius:.3g} or more",
                stacklevel=3,
            )
            self._warned = True
