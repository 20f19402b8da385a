"""The laws every model must obey, as test classes.

A test module subclasses :class:`ModelSuite` (and :class:`CutoffSuite`) and gives a ``case``
fixture, parametrised over all options it wants to hold. A case knows how to build the model and
random batches for it, and how each output turns under O(3). Bars: relative error <= 1e-5 in
float32, <= 1e-12 in float64 (largest difference over largest output).
"""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import Tensor, nn

from farfield.models.batch import AtomBatch
from farfield.models.edges import edge_vectors
from farfield.models.graph_ops import dgl_is_there, use_backend
from farfield.models.near_field.edge_frames import EdgeBasis
from tests.support.law_cases import (
    TURNS,
    Case,
    joined,
    parted,
    permuted,
    random_rotation,
    relative_error,
    replaced,
    single,
    symmetric_batch,
    turned,
)

# small batches do not meet DGL's kernels by themselves
DGL_KERNELS = use_backend("dgl" if dgl_is_there() else "torch")
BARS = {torch.float32: 1e-5, torch.float64: 1e-12}
ANSWERED: dict = {}  # (id of a case, dtype) -> the case, what `ModelCases.answered` gives
VARIED: dict = {}  # (id of a case, dtype) -> what `ModelSuite.varied` gives


class ModelCases:
    """How a law gets its model and batch, in float32 and float64."""

    @pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
    def dtype(self, request):
        before = torch.get_default_dtype()
        torch.set_default_dtype(request.param)
        yield request.param
        torch.set_default_dtype(before)

    @pytest.fixture
    def double(self):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(before)

    @staticmethod
    def prepare(
        case: Case, sizes=(5, 4, 7), seed: int = 0
    ) -> tuple[nn.Module, AtomBatch, torch.Generator]:
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        return case.build().eval(), case.batch(list(sizes), generator), generator

    @classmethod
    def answered(cls, case: Case) -> tuple[nn.Module, AtomBatch, dict[str, Tensor]]:
        """A model, a batch and the model's answer to it, made once for all laws of a case that
        change none of the three.
        """
        key = (id(case), torch.get_default_dtype())
        if key not in ANSWERED:
            model, batch, _ = cls.prepare(case)
            outputs = model(batch)
            expected = {name: outputs[name].detach() for name in case.outputs}
            ANSWERED[key] = case, model, batch, expected  # the case keeps its id to itself
        return ANSWERED[key][1:]

    @staticmethod
    def draws() -> torch.Generator:
        """Random draws of a law, independent of those of the batch."""
        return torch.Generator().manual_seed(1)


class ModelSuite(ModelCases):
    """The laws of every model. Subclass it and give a ``case`` fixture."""

    def rotation(self) -> Tensor:
        return random_rotation(self.draws(), torch.get_default_dtype())

    def order(self, batch: AtomBatch) -> Tensor:
        """The nodes of each graph in another order."""
        generator = self.draws()
        offsets = batch.graph.node_offsets.tolist()
        return torch.cat(
            [
                low + torch.randperm(high - low, generator=generator)
                for low, high in zip(offsets, offsets[1:], strict=False)
            ]
        )

    def varied(self, case: Case) -> dict[str, dict[str, Tensor]]:
        """Law -> the answer to its change of the batch of ``answered``.

        The model answers all in one batch: graphs know nothing of each other, by
        ``test_batch_equals_alone``.
        """
        key = (id(case), torch.get_default_dtype())
        if key not in VARIED:
            model, batch, _ = self.answered(case)
            shift = 2 * torch.randn(3, generator=self.draws())
            changes = {
                "rotation": turned(case, batch, self.rotation()),
                "reflection": turned(case, batch, -self.rotation()),
                "translation": replaced(case, batch, batch.positions + shift),
                "permutation": permuted(case, batch, self.order(batch)),
                "isolated": case.batch([5, 1, 4], self.draws()),
            }
            batches = list(changes.values())
            outputs = model(joined(case, batches))
            found = {name: outputs[name].detach() for name in case.outputs}
            VARIED[key] = dict(zip(changes, parted(case, batches, found), strict=True))
        return VARIED[key]

    def test_rotation(self, case, dtype):
        _, _, expected = self.answered(case)
        found = self.varied(case)["rotation"]
        for name, kind in case.outputs.items():
            before = TURNS[kind](expected[name], self.rotation())
            assert relative_error(found[name], before) <= BARS[dtype], name

    def test_reflection(self, case, dtype):
        _, _, expected = self.answered(case)
        found = self.varied(case)["reflection"]
        for name, kind in case.outputs.items():
            before = TURNS[kind](expected[name], -self.rotation())
            assert relative_error(found[name], before) <= BARS[dtype], name

    def test_translation(self, case, dtype):
        _, _, expected = self.answered(case)
        found = self.varied(case)["translation"]
        for name in case.outputs:
            assert relative_error(found[name], expected[name]) <= BARS[dtype], name

    def test_permutation(self, case, dtype):
        _, batch, expected = self.answered(case)
        found, order = self.varied(case)["permutation"], self.order(batch)
        for name, kind in case.outputs.items():
            before = expected[name] if kind.startswith("graph") else expected[name][order]
            assert relative_error(found[name], before) <= BARS[dtype], name

    def test_symmetric_structures_turn(self, case, dtype):
        """Where symmetry makes features vanish, rounding must not grow into forces: a tetrahedron
        around an atom, and three atoms on a line, turn as any other structure does.
        """
        model, _, _ = self.answered(case)
        still = symmetric_batch(case)
        before = model(still)
        found = model(turned(case, still, self.rotation()))
        for name, kind in case.outputs.items():
            expected = TURNS[kind](before[name].detach(), self.rotation())
            if float(expected.abs().max()) > 1e-3:  # zero by symmetry for some
                error = relative_error(found[name].detach(), expected)
                assert error <= 10 * BARS[dtype], (name, error)

    def test_batch_equals_alone(self, case, dtype):
        model, batch, together = self.answered(case)
        bounds = batch.graph.node_offsets.tolist()
        for index, (low, high) in enumerate(zip(bounds, bounds[1:], strict=False)):
            alone = model(single(case, batch, low, high))
            for name, kind in case.outputs.items():
                part = (
                    together[name][index : index + 1]
                    if kind.startswith("graph")
                    else together[name][low:high]
                )
                scale = together[name].abs().max()
                error = float(((alone[name] - part).abs().max() / scale).detach())
                # products of other sizes are summed in another order, on some processors
                assert error <= min(BARS[dtype], 4e-6), (name, error)

    def test_isolated_node(self, case, dtype):
        """A graph of one node has no edges; its answer is finite."""
        out = self.varied(case)["isolated"]
        assert all(torch.isfinite(out[name]).all() for name in case.outputs)

    def test_graph_without_edges(self, case, dtype):
        model, _, _ = self.answered(case)
        batch = case.batch([1], self.draws())
        assert batch.graph.num_edges == 0
        out = model(batch)
        assert all(torch.isfinite(out[name]).all() for name in case.outputs)

    def test_degenerate_geometry_has_finite_gradients(self, case, dtype):
        """Coincident nodes, zero-length vector features, nodes on the polar axis: outputs,
        gradients and second derivatives stay finite.
        """
        model, _, _ = self.answered(case)
        batch = case.batch([4, 3], torch.Generator().manual_seed(0))
        positions = batch.positions.clone()
        positions[1] = positions[0]  # an edge of zero length
        positions[3] = positions[2] + torch.tensor([0.0, -1.0, 0.0])
        zero = {
            name: torch.zeros_like(value)
            for name, value in batch.node_features.items()
            if value.dim() == 2
        }
        positions.requires_grad_(True)
        out = model(replaced(case, batch, positions, **zero))
        total = sum((out[name] ** 2).sum() for name in case.outputs)
        (gradient,) = torch.autograd.grad(total, positions, create_graph=True)
        assert torch.isfinite(gradient).all()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        seconds = torch.autograd.grad(gradient.square().sum(), parameters, allow_unused=True)
        assert all(torch.isfinite(second).all() for second in seconds if second is not None)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_gpu_equals_cpu(self, case, double):
        """Outputs and the gradient of a projection of them, on torch's kernels there."""
        model, batch, _ = self.prepare(case)
        answers = []
        for device in ("cpu", "cuda"):
            moved = batch.to(device)
            positions = moved.positions.detach().requires_grad_(True)
            out = model.to(device)(dataclasses.replace(moved, positions=positions))
            total = sum((out[name] ** 3).sum() for name in case.outputs)
            answers.append(
                [
                    *(out[name].detach().cpu() for name in case.outputs),
                    torch.autograd.grad(total, positions)[0].cpu(),
                ]
            )
        assert all(
            relative_error(found, expected) <= BARS[torch.float64]
            for expected, found in zip(*answers, strict=True)
        )

    @DGL_KERNELS
    def test_first_and_second_derivatives(self, case, double):
        """Gradient of a random projection of the outputs against central differences, and the
        parameter gradient of a loss on that gradient.
        """
        model, batch, generator = self.prepare(case, sizes=(4, 3))
        positions = batch.positions.clone().requires_grad_(True)
        at = functools.partial(dataclasses.replace, batch, edge_basis=None)
        outputs = model(at(positions=positions))
        weights = {
            name: torch.randn(outputs[name].shape, generator=generator) for name in case.outputs
        }

        def projected(outputs: dict[str, Tensor]) -> Tensor:
            return sum((outputs[name] * weights[name]).sum() for name in case.outputs)

        # both ends of the difference are graphs of one batch
        (gradient,) = torch.autograd.grad(projected(outputs), positions, create_graph=True)
        direction = torch.randn(positions.shape, generator=generator)
        step = 1e-5
        with torch.no_grad():
            ends = [at(positions=positions + move * direction) for move in (step, -step)]
            high, low = map(projected, parted(case, ends, model(joined(case, ends))))
            slope = (high - low) / (2 * step)
        assert abs(float((gradient.detach() * direction).sum() - slope)) <= 1e-6 * max(
            1.0, abs(float(slope))
        )

        # all parameters move together: the error is measured against the spread of the slope over
        # directions
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        slopes = torch.autograd.grad(
            gradient.square().sum(), parameters, allow_unused=True, materialize_grads=True
        )
        directions = [torch.randn(parameter.shape, generator=generator) for parameter in parameters]
        losses, step = [], 1e-7
        for move in (step, -2 * step):
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter += move * direction
            (moved,) = torch.autograd.grad(projected(model(at(positions=positions))), positions)
            losses.append(float(moved.square().sum()))
        products = [slope * direction for slope, direction in zip(slopes, directions, strict=True)]
        spread = sum(float(product.square().sum()) for product in products) ** 0.5
        error = sum(float(product.sum()) for product in products) - (losses[0] - losses[1]) / (
            2 * step
        )
        assert spread > 0 and abs(error) <= 1e-5 * spread

    def test_save_and_load(self, case, tmp_path):
        model, batch, expected = self.answered(case)
        torch.save(model.state_dict(), tmp_path / "weights.pt")
        torch.manual_seed(1)
        again = case.build().eval()
        again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
        found = again(batch)
        for name in case.outputs:
            assert torch.equal(expected[name], found[name]), name


class BasisSuite(ModelCases):
    """The laws of a model that reads a cached basis of its edges."""

    def test_cached_basis_equals_computed(self, case):
        model, batch, expected = self.answered(case)
        vectors = edge_vectors(batch.positions.double(), batch.graph)
        cached = dataclasses.replace(
            batch, edge_basis=EdgeBasis.from_vectors(vectors, case.lmax).to(dtype=torch.float32)
        )
        found = model(cached)
        for name in case.outputs:
            assert relative_error(found[name], expected[name]) <= 1e-5, name

    def test_gradients_do_not_pass_by_the_cache(self, case):
        """Where positions ask for a gradient the basis is computed from them, also if there is a
        cached one.
        """
        model, batch, _ = self.prepare(case)
        basis = EdgeBasis.from_vectors(edge_vectors(batch.positions, batch.graph), case.lmax)
        gradients = []
        for cached in (None, basis):
            positions = batch.positions.clone().requires_grad_(True)
            out = model(dataclasses.replace(batch, positions=positions, edge_basis=cached))
            gradients.append(
                torch.autograd.grad(
                    sum((out[name] ** 2).sum() for name in case.outputs), positions
                )[0]
            )
        assert relative_error(gradients[1], gradients[0]) <= 1e-5


class CutoffSuite(ModelCases):
    """The laws of a model on cutoff graphs. Subclass it and give a ``case`` fixture of cases that
    have a cutoff.
    """

    def test_cutoff_is_smooth(self, case, double):
        """A node that crosses the cutoff of its only neighbour changes nothing abruptly, neither in
        value nor in gradient.
        """
        model, batch, _ = self.prepare(case, sizes=(3,))
        values, gradients = [], []
        for step in (-1e-6, 1e-6):
            far = [
                0.3,
                1.0 + case.cutoff + step,
                0.2,
            ]  # its distance from node 1 is cutoff + step, from node 0 more
            positions = torch.tensor([[0.0, 0.0, 0.0], [0.3, 1.0, 0.2], far], requires_grad=True)
            out = model(replaced(case, batch, positions))
            total = sum(
                (out[name] * torch.linspace(1, 2, out[name].numel()).view_as(out[name])).sum()
                for name in case.outputs
            )
            values.append(float(total.detach()))
            gradients.append(torch.autograd.grad(total, positions)[0])
        assert abs(values[1] - values[0]) <= 1e-4
        assert float((gradients[1] - gradients[0]).abs().max()) <= 1e-3

    def test_neighbour_fades_at_cutoff(self, case, double):
        """The influence of a neighbour just inside the cutoff is that of no neighbour, to the power
        of the envelope.
        """
        model, batch, _ = self.prepare(case, sizes=(2,))
        outs = []
        for distance in (case.cutoff * (1 - 1e-6), case.cutoff * 1.01):
            positions = torch.tensor([[0.0, 0.0, 0.0], [0.6, 0.8, 0.0]]) * torch.tensor(
                [[1.0], [distance]]
            )
            outs.append(model(replaced(case, batch, positions)))
        for name in case.outputs:
            assert float((outs[0][name] - outs[1][name]).detach().abs().max()) <= 1e-9, name
