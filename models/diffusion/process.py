"""Diffusion of positions, forwards and backwards, on ragged batches with a time for each molecule.

    forward    x_t = sqrt(abar_t) x_0 + sqrt(bbar_t) eps
    reverse    x_(t - 1) = (x_t - beta_t / sqrt(bbar_t) eps^) / sqrt(alpha_t) + sigma_t z
    clean      x_0^ = (x_t - sqrt(bbar_t) eps^) / sqrt(abar_t)

without z at t = 0. x_0 is centred in each molecule, and eps and z are normal with their mean over
the molecule removed, so that a centroid never moves: of n atoms every coordinate of the noise has
variance (n - 1) / n. The prior, x after the last step, is such noise. Coefficients are those of
``schedules.py``. Networks read the time t / (T - 1) in [0, 1].

No random state is hidden: what draws takes a generator. Everything is computed in float64 and given
in the type of the positions. Sources: Ho et al. 2020 (arXiv:2006.11239), Kahouli et al. 2024,
MoreRed. Cost: linear in atoms.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
from torch import Tensor

from farfield.models.choices import check_at_least, check_choices
from farfield.models.diffusion.schedules import SCHEDULES, VARIANCES
from farfield.models.graph_ops import GraphIndex, broadcast_nodes, mean_nodes
from farfield.models.heads.scaling import ExactBuffers
from farfield.models.option_fields import MAIN


@dataclasses.dataclass(frozen=True)
class ProcessOptions:
    """What makes a process; networks that work together were trained on the same.

    Raises ValueError in one line for unknown names and fewer than 2 steps.
    """

    schedule: Annotated[str, "noise schedule", SCHEDULES, MAIN] = "polynomial"
    time_steps: Annotated[int, "number of time steps from a molecule to noise", MAIN] = 1000
    variance: Annotated[
        str, "variance of the noise of a reverse step: lower or upper bound, or zero", VARIANCES
    ] = "lower"

    def __post_init__(self):
        check_choices(self, {"schedule": SCHEDULES, "variance": VARIANCES})
        check_at_least(self, 2, ["time_steps"])


def check_same_process(noise: ProcessOptions, time: ProcessOptions) -> None:
    """Raise ValueError unless a noise network and a time network know the same times.

    The variance may differ: it belongs to sampling alone.
    """
    for name in ("schedule", "time_steps"):
        ours, theirs = getattr(noise, name), getattr(time, name)
        if ours != theirs:
            raise ValueError(
                f"the time network was trained with {name} {theirs}, the noise network with "
                f"{ours}; give a time network of the same process"
            )


class DiffusionProcess(ExactBuffers):
    """Steps of a diffusion for batches; holds no weights, moves to a device as a module does.

    In all methods graph is the topology of the batch, positions and noise are (nodes, 3), and index
    (graphs,) int64 is the time t = 0 .. T - 1 of each molecule. Attributes, all (T,) float64:
    ``alpha``, ``beta``, ``alpha_bar``, ``beta_bar``, ``variance`` (sigma^2).

    Example: noise the molecules of a batch as in training.

        process = DiffusionProcess()
        index = process.random_index(batch.num_graphs, generator)
        noise = centred_noise(batch.graph, generator)
        noised = process.noised(batch.graph, batch.positions, index, noise)
    """

    def __init__(self, options: ProcessOptions | None = None):
        super().__init__()
        self.options = options = ProcessOptions() if options is None else options
        alpha_bar = SCHEDULES[options.schedule](options.time_steps)
        alpha = torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
        beta, beta_bar = 1 - alpha, 1 - alpha_bar
        variance = VARIANCES[options.variance](beta, beta_bar)

        self.register_buffer("alpha", alpha, persistent=False)
        self.register_buffer("beta", beta, persistent=False)
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)
        self.register_buffer("beta_bar", beta_bar, persistent=False)
        self.register_buffer("variance", variance, persistent=False)

    @property
    def last(self) -> int:
        """The last time, T - 1: all noise."""
        return self.options.time_steps - 1

    # ---- times

    def time(self, index: Tensor) -> Tensor:
        """What networks read, ``t / (T - 1)`` in [0, 1], float64, of the shape of ``index``."""
        return index.double() / self.last

    def index(self, time: Tensor) -> Tensor:
        """The inverse of :meth:`time`, int64: nearest t of any number, held in [0, 1] first."""
        return (time.double().clamp(0, 1) * self.last).round().long()

    def random_index(self, graphs: int, generator: torch.Generator) -> Tensor:
        """A uniform time for each of so many molecules (graphs,) int64."""
        drawn = torch.randint(
            self.options.time_steps, (graphs,), generator=generator, device=generator.device
        )
        return drawn.to(self.alpha.device)

    # ---- positions

    def noised(self, graph: GraphIndex, positions: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """Positions (nodes, 3) at the times ``index``, given those of the molecules and noise.

        The molecules are centred first; noise is taken as it is, see :func:`centred_noise`.
        """
        kept = self._of_nodes(self.alpha_bar.sqrt(), graph, index)
        spread = self._of_nodes(self.beta_bar.sqrt(), graph, index)
        found = kept * centred(graph, positions.double()) + spread * noise
        return found.to(positions.dtype)

    def previous(
        self, graph: GraphIndex, positions: Tensor, index: Tensor, noise: Tensor, fresh: Tensor
    ) -> Tensor:
        """Positions (nodes, 3) one step closer to the molecule.

        positions: at the times ``index``. noise: what a network finds in them. fresh: z of the
        step, standard normal; both are centred here. At time 0 no fresh noise is added.
        """
        share = self._of_nodes(self.beta / self.beta_bar.sqrt(), graph, index)
        scale = self._of_nodes(self.alpha.rsqrt(), graph, index)
        mean = scale * (positions - share * centred(graph, noise.double()))

        spread = self._of_nodes(self.variance.sqrt(), graph, index)
        spread = spread * broadcast_nodes(graph, index > 0).unsqueeze(1)
        return (mean + spread * centred(graph, fresh.double())).to(positions.dtype)

    def clean(self, graph: GraphIndex, positions: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """The molecule (nodes, 3) that noise found at the times ``index`` speaks for."""
        kept = self._of_nodes(self.alpha_bar.sqrt(), graph, index)
        spread = self._of_nodes(self.beta_bar.sqrt(), graph, index)
        found = (positions - spread * centred(graph, noise.double())) / kept
        return found.to(positions.dtype)

    def _of_nodes(self, coefficients: Tensor, graph: GraphIndex, index: Tensor) -> Tensor:
        """A coefficient at the time of every atom's molecule: (nodes, 1) float64."""
        return broadcast_nodes(graph, coefficients.index_select(0, index)).unsqueeze(1)


def centred(graph: GraphIndex, values: Tensor) -> Tensor:
    """Values of atoms (nodes, ...) less their mean over each molecule."""
    return values - broadcast_nodes(graph, mean_nodes(graph, values))


def centred_noise(
    graph: GraphIndex, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Normal noise (nodes, 3) with the mean of each molecule removed, drawn in float64."""
    return centred(graph, normal_draws(graph, generator)).to(dtype)


def normal_draws(graph: GraphIndex, generator: torch.Generator) -> Tensor:
    """Standard normal values (nodes, 3), float64, drawn on the device of the generator."""
    drawn = torch.randn(
        graph.num_nodes, 3, generator=generator, device=generator.device, dtype=torch.float64
    )
    return drawn.to(graph.src.device)
