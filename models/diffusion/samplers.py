"""Samplers: from noise, or from a displaced structure, back to a molecule, step by step.

At every step a noise network says what noise there is in the positions at a time t, and one reverse
step is taken (``process.py``). The samplers differ in the t of a molecule:

    ddpm   t counts down: T - 1, T - 2, .. 0, or from a time that is given
    itp    a time network guesses t once, then it counts down
    as     a time network guesses t before every step
    jt     the noise network guesses t itself, in the same pass

A guess for a molecule is the mean over its atoms, each held in [0, 1]. A molecule is finished where
t <= ``convergence_step``, or where ``patience`` guesses in a row were no new least: a network of
short training takes clean molecules for some t above 0, and there its guess stays. The last step of
a molecule goes all the way, to the clean molecule that the noise speaks for. Then it leaves the
batch; what becomes of it depends on no other (``sampling_run.py``).

Sources: Ho et al. 2020 (arXiv:2006.11239) for "ddpm", Kahouli et al. 2024, MoreRed
(arXiv:2404.10935) for the others. Cost: one pass of each network a step over unfinished molecules.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.choices import Registry, check_at_least
from farfield.models.diffusion.molecules import with_all_pairs
from farfield.models.diffusion.process import DiffusionProcess, centred, normal_draws
from farfield.models.diffusion.sampling_run import SampleResult, SamplingOptions, SamplingRun
from farfield.models.graph_ops import broadcast_nodes, mean_nodes
from farfield.models.network import Network


class Sampler(abc.ABC):
    """Runs a process backwards with trained networks.

    Arguments
        process           :class:`DiffusionProcess` that the networks were trained on
        noise_network     gives "noise" (``models.network.DIFFUSION``)
        time_network      gives "time"; for the samplers that ask a network of its own
        convergence_step  a molecule is finished by a step with t <= this
        patience          it is finished as well by the last of so many guesses in a row that were
                          no new least; None: it is not, nor where time counts down

    Raises ValueError in one line for networks that do not give what the sampler asks for.

    Example: a molecule of water out of noise, and a structure relaxed.

        sampler = SAMPLERS.find("jt")(DiffusionProcess(), network)
        result = sampler.generate(blank_molecules([[8, 1, 1]]))
        result = sampler.relax(batch, options=SamplingOptions(max_steps=1000))
    """

    name: ClassVar[str]
    asks_time_network: ClassVar[bool] = False
    """Whether there must be a time network; where not, there must be none."""
    guesses_every_step: ClassVar[bool] = False
    """Whether a guess decides when a molecule is finished; otherwise time counts down to 0."""

    def __init__(
        self,
        process: DiffusionProcess,
        noise_network: Network,
        time_network: Network | None = None,
        convergence_step: int = 0,
        patience: int | None = None,
    ):
        self.process = process
        self.noise_network, self.time_network = noise_network, time_network
        self.convergence_step, self.patience = convergence_step, patience
        check_at_least(self, 0, ["convergence_step"])
        check_at_least(self, 1, ["patience"] if patience is not None else [])
        self._check_networks()

    def _check_networks(self) -> None:
        """Raise ValueError for networks that do not give what the sampler asks for."""
        _check_gives(self.noise_network, "noise", f"the noise network of sampler {self.name}")
        if not self.asks_time_network and self.time_network is not None:
            raise ValueError(
                f"sampler {self.name} asks no time network; leave it out, or use the sampler as"
            )
        if self.asks_time_network and self.time_network is None:
            raise ValueError(
                f"sampler {self.name} asks a time network, got none; give one, or use the sampler "
                "ddpm"
            )
        if self.asks_time_network:
            _check_gives(self.time_network, "time", f"the time network of sampler {self.name}")

    @abc.abstractmethod
    def predict(self, batch: AtomBatch, expected: Tensor | None) -> tuple[Tensor, Tensor]:
        """Time (graphs,) int64 of each molecule before a step, and the noise (nodes, 3) in it.

        expected (graphs,) int64: one less than before the last step; None before the first step
        from positions of which no time is known.
        """

    def generate(self, batch: AtomBatch, options: SamplingOptions | None = None) -> SampleResult:
        """Molecules out of noise: positions are drawn, those of the batch are not read.

        The batch is in the type of the networks.
        """
        options = options or SamplingOptions()
        batch = _without_time(with_all_pairs(batch))
        draw = _draws(batch, options)
        start = centred(batch.graph, draw()).to(batch.positions)
        inside = dataclasses.replace(batch, positions=start)
        return self._run(inside, self._time_of_noise(batch), draw, options)

    def relax(
        self,
        batch: AtomBatch,
        start: int | Tensor | None = None,
        options: SamplingOptions | None = None,
    ) -> SampleResult:
        """Molecules out of the positions of the batch, whose centroids stay where they are.

        start: time of these positions, for all or (graphs,) int64. ``ddpm`` needs it, since it
        guesses none; the others guess, and refuse it.
        """
        options = options or SamplingOptions()
        batch = _without_time(with_all_pairs(batch))
        index = self._time_of_positions(batch, start)

        centroid = broadcast_nodes(batch.graph, mean_nodes(batch.graph, batch.positions))
        inside = dataclasses.replace(batch, positions=batch.positions - centroid)
        found = self._run(inside, index, _draws(batch, options), options)

        found.batch.positions = found.batch.positions + centroid
        if found.trajectory is not None:
            found.trajectory = [positions + centroid for positions in found.trajectory]
        return found

    def _time_of_noise(self, batch: AtomBatch) -> Tensor | None:
        """Times (graphs,) of molecules that are all noise, or None where the sampler guesses."""
        return None

    def _time_of_positions(self, batch: AtomBatch, start: int | Tensor | None) -> Tensor | None:
        """Times (graphs,) of given positions, or None where the sampler guesses."""
        if start is not None:
            raise ValueError(
                f"sampler {self.name} guesses the time itself; leave start out, or use the sampler "
                "ddpm"
            )
        return None

    @torch.no_grad()
    def _run(
        self,
        batch: AtomBatch,
        index: Tensor | None,
        draw: Callable[[], Tensor],
        options: SamplingOptions,
    ) -> SampleResult:
        """Steps until all molecules have left, from positions with zero mean."""
        self.process.to(batch.positions.device)
        run = SamplingRun(batch, index, options.keep_every)
        with _evaluating(self.noise_network, self.time_network):
            for step in range(options.max_steps or self.process.options.time_steps):
                self._step(run, draw())
                if options.progress is not None:
                    options.progress(step + 1, run.finished)
                if run.part is None:
                    break
        return run.result()

    def _step(self, run: SamplingRun, drawn: Tensor) -> None:
        """One reverse step of the unfinished molecules; drawn (nodes, 3): for all molecules."""
        part = run.part
        index, noise = self.predict(part, run.index)
        finished = index <= self.convergence_step
        if self.guesses_every_step and self.patience is not None:
            finished = finished | (run.guesses_since_least(index) >= self.patience)

        fresh = drawn.to(part.positions.device)[run.nodes]
        before = self.process.previous(part.graph, part.positions, index, noise, fresh)
        clean = self.process.clean(part.graph, part.positions, index, noise)
        ends = broadcast_nodes(part.graph, finished).unsqueeze(1)
        run.advance(torch.where(ends, clean, before), index, finished)

    def noise_at(self, batch: AtomBatch, index: Tensor) -> Tensor:
        """Noise (nodes, 3) that the noise network finds at the times ``index`` (graphs,)."""
        time = self.process.time(index).to(batch.positions)
        features = batch.graph_features | {"time": time}
        return self.noise_network(dataclasses.replace(batch, graph_features=features))["noise"]

    def index_of(self, batch: AtomBatch, time: Tensor) -> Tensor:
        """Times (graphs,) int64 of the molecules from the guesses of their atoms (nodes,)."""
        # a guess that is not a number counts as noise
        held = time.double().nan_to_num(1.0).clamp(0, 1)
        return self.process.index(mean_nodes(batch.graph, held))


# name -> sampler
SAMPLERS: Registry[type[Sampler]] = Registry("sampler")


@SAMPLERS.register("ddpm")
class CountingSampler(Sampler):
    """Time counts down from the last, or from the time of the positions that are given."""

    name = "ddpm"

    def predict(self, batch: AtomBatch, expected: Tensor | None) -> tuple[Tensor, Tensor]:
        return expected, self.noise_at(batch, expected)

    def _time_of_noise(self, batch: AtomBatch) -> Tensor:
        return torch.full_like(batch.graph.nodes_per_graph, self.process.last)

    def _time_of_positions(self, batch: AtomBatch, start: int | Tensor | None) -> Tensor:
        if start is None:
            raise ValueError(
                "sampler ddpm guesses no time; give start, the time of the positions in 0 .. "
                f"{self.process.last}, or use another sampler"
            )

        # () for one time of all molecules, or (graphs,)
        counts = batch.graph.nodes_per_graph
        index = torch.as_tensor(start, device=counts.device)
        if index.dim() > 1 or (index.dim() == 1 and len(index) != batch.num_graphs):
            raise ValueError(
                f"start must be one time, or one for each of the {batch.num_graphs} molecules, got "
                f"the shape {tuple(index.shape)}"
            )
        if index.is_floating_point() or not bool(
            ((index >= 0) & (index <= self.process.last)).all()
        ):
            raise ValueError(
                f"start must be whole numbers in 0 .. {self.process.last}, got {index.tolist()}"
            )

        return index.expand_as(counts).clone()


@SAMPLERS.register("itp")
class InitialGuessSampler(Sampler):
    """Time is guessed once and then counts down (MoreRed-ITP)."""

    name = "itp"
    asks_time_network = True

    def predict(self, batch: AtomBatch, expected: Tensor | None) -> tuple[Tensor, Tensor]:
        index = expected
        if index is None:
            index = self.index_of(batch, self.time_network(batch)["time"])
        return index, self.noise_at(batch, index)


@SAMPLERS.register("as")
class AdaptiveSampler(Sampler):
    """Time is guessed before every step by a network of its own (MoreRed-AS)."""

    name = "as"
    asks_time_network = True
    guesses_every_step = True

    def predict(self, batch: AtomBatch, expected: Tensor | None) -> tuple[Tensor, Tensor]:
        index = self.index_of(batch, self.time_network(batch)["time"])
        return index, self.noise_at(batch, index)


@SAMPLERS.register("jt")
class JointSampler(Sampler):
    """Time is guessed before every step by the noise network itself (MoreRed-JT)."""

    name = "jt"
    guesses_every_step = True

    def _check_networks(self) -> None:
        super()._check_networks()
        _check_gives(self.noise_network, "time", "the noise network of sampler jt")

    def predict(self, batch: AtomBatch, expected: Tensor | None) -> tuple[Tensor, Tensor]:
        out = self.noise_network(batch)
        return self.index_of(batch, out["time"]), out["noise"]


def _draws(batch: AtomBatch, options: SamplingOptions) -> Callable[[], Tensor]:
    """Draws for the atoms of all molecules, so that none changes with when another finishes."""
    if options.noise is not None:
        return options.noise
    generator = options.generator or torch.default_generator
    return lambda: normal_draws(batch.graph, generator)


def _without_time(batch: AtomBatch) -> AtomBatch:
    """The batch without a time that it was once given."""
    features = {name: value for name, value in batch.graph_features.items() if name != "time"}
    return dataclasses.replace(batch, graph_features=features)


def _check_gives(network: Network, output: str, what: str) -> None:
    """Raise ValueError unless a network gives an output."""
    given = network.outputs()
    if output not in given:
        raise ValueError(
            f"{what} must predict {output}, got one that predicts {', '.join(given)}; train it "
            f"with {output}_head"
        )


@contextlib.contextmanager
def _evaluating(*networks: Network | None) -> Iterator[None]:
    """Networks in evaluation mode, and afterwards as they were."""
    training = [net for net in networks if isinstance(net, nn.Module) and net.training]
    for network in training:
        network.eval()
    try:
        yield
    finally:
        for network in training:
            network.train()
