"""What all tasks share."""

import pytest
import torch
from torch import nn

from farfield.train.tasks.task import evaluation_mode


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_evaluated_without_gradients_and_goes_on_as_before(training):
    model = nn.Linear(1, 1).train(training)
    with pytest.raises(KeyError), evaluation_mode(model):
        assert not model.training and not torch.is_grad_enabled()
        raise KeyError
    assert model.training is training and torch.is_grad_enabled()
