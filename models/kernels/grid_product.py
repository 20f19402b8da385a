"""Products of functions on a grid of points without their values on the grid.

    out = P ((T f) (T g)),      T (points, rows),   P (rows, points),

for features f, g of many columns. The grid has several times as many points as there are rows, and
torch keeps the values there, in the product and in both derivatives that a network trained on
forces takes. The form

    S(f, g, G) = sum_(p, column) (T f)(T g)(P^T G)

is linear in each argument, so all derivatives are contractions of it (``multilinear.py``): values
on the grid are made again for each of them, a few columns at a time that stay in the processor's
cache.

Cost: three products with T or P in the value and five for both derivatives of first order, points x
rows x columns multiply-adds each.
"""

from __future__ import annotations

from torch import Tensor

from farfield.models.kernels.multilinear import contraction

VALUES_PER_CHUNK = 1 << 18


class GridForm:
    """S of the module; its arguments are (rows, nodes, channels).

    to_grid: T (points, rows). from_grid: P (rows, points).
    """

    arguments = ("first", "second", "out")

    def __init__(self, to_grid: Tensor, from_grid: Tensor):
        self.to_grid, self.from_grid = to_grid, from_grid

    def contract(self, needed: set[str], given: dict[str, Tensor]) -> dict[str, Tensor]:
        """S without each of the ``needed`` arguments, by name."""
        like = next(iter(given.values()))
        rows, nodes, channels = like.shape
        result = {name: like.new_empty(like.shape) for name in needed}

        step = max(1, VALUES_PER_CHUNK // (len(self.to_grid) * max(channels, 1)))
        for start in range(0, nodes, step):
            part = slice(start, start + step)
            # (points, nodes channels) of each argument that any result reads
            values = {
                name: self._matrix(name) @ one[:, part].reshape(rows, -1)
                for name, one in given.items()
                if needed != {name}
            }
            for name in needed:
                first, second = (values[other] for other in self.arguments if other != name)
                found = self._matrix(name).T @ (first * second)
                result[name][:, part] = found.view(rows, -1, channels)
        return result

    def _matrix(self, name: str) -> Tensor:
        """Map of an argument to the grid."""
        return self.from_grid.T if name == "out" else self.to_grid


def grid_product(to_grid: Tensor, from_grid: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """``P ((T first) (T second))`` of (rows, nodes, channels): the same shape.

    to_grid (points, rows), from_grid (rows, points): constants. Differentiable to any order.
    """
    return contraction(GridForm(to_grid, from_grid), "out", first, second)
