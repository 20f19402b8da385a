"""The laws of models of energies whose parts do not hear each other far away, as a test class."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.graph_ops import GraphIndex
from tests.laws import ModelCases
from tests.support.law_cases import Case, joined, replaced


class FarApartSuite(ModelCases):
    """The laws of a model of energies and forces whose parts do not hear each other far away.

    Subclass it and give a ``case`` fixture. ``apart``: a distance (Angstrom) beyond the reach of
    everything. ``far_from_home``: one where float32 has steps of 1e-4.
    """

    apart = 60.0
    far_from_home = 1e3

    def placed(self, case: Case, batch: AtomBatch, shift: Tensor) -> AtomBatch:
        """The graphs of ``batch`` as one graph, each moved by its row of ``shift``."""
        counts = batch.graph.nodes_per_graph
        positions = batch.positions + shift.repeat_interleave(counts, 0)
        one = dataclasses.replace(
            batch,
            graph=GraphIndex(batch.graph.src, batch.graph.dst, counts.sum().view(1)),
            graph_features={name: value[:1] for name, value in batch.graph_features.items()},
        )
        return replaced(case, one, positions)

    def test_extensive(self, case, double):
        """Two copies far apart have twice the energy of one, and the forces of one each; the forces
        in float32 as well, far from home.
        """
        model, batch, _ = self.prepare(case, sizes=(5,))
        alone = model(batch)
        pair = joined(case, [batch, batch])
        away = torch.tensor([[0.0, 0.0, 0.0], [self.apart, 0.0, 0.0]])
        found = model(self.placed(case, pair, away))
        torch.testing.assert_close(found["energy"], 2 * alone["energy"], rtol=1e-9, atol=1e-9)
        expected = alone["forces"].detach().repeat(2, 1)
        torch.testing.assert_close(found["forces"], expected, rtol=0, atol=1e-9)

        away = away * (self.far_from_home / self.apart)
        there = self.placed(case, pair, away).to(dtype=torch.float32)
        error = (model.float()(there)["forces"].detach() - expected).abs().max()
        assert float(error / expected.abs().max()) < 2e-5

    def test_ghosts_change_nothing(self, case, double):
        """Other structures far away add their own energies and change no force."""
        model, batch, _ = self.prepare(case, sizes=(5, 1, 2, 4))
        alone = model(batch)
        away = torch.linspace(0, 3 * self.apart, 4).unsqueeze(1) * torch.tensor([[0.6, 0.8, 0.0]])
        found = model(self.placed(case, batch, away))
        torch.testing.assert_close(found["energy"][0], alone["energy"].sum(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found["forces"], alone["forces"], rtol=0, atol=1e-9)
