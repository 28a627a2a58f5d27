import pytest
import torch
from torch import nn

from snnrun.kits.between import Between, Scale, SequenceDropout

pytestmark = pytest.mark.usefixtures("fp64")


def test_pool_acts_on_every_step_by_itself():
    x = torch.rand(3, 2, 4, 6, 6)
    pooled = Between(nn.AvgPool2d(2))(x)
    assert torch.equal(pooled, torch.stack([nn.AvgPool2d(2)(step) for step in x]))


def test_scale_multiplies():
    assert Scale(2.5)(torch.tensor([2.0])).tolist() == [5.0]


def test_dropout_draws_one_mask_per_sequence():
    dropout = SequenceDropout(0.5)
    whole = dropout(torch.ones(3, 4, 50))
    assert torch.equal(whole[0], whole[1])
    assert torch.equal(whole, dropout(torch.ones(3, 4, 50)))
    assert set(whole.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(whole[0, 0], whole[0, 1])
    dropout.reset()
    assert not torch.equal(whole, dropout(torch.ones(3, 4, 50)))


def test_dropout_keeps_the_mean():
    assert SequenceDropout(0.3)(torch.ones(1, 10, 10_000)).mean().item() == pytest.approx(
        1, abs=0.02
    )


def test_dropout_is_identity_in_evaluation():
    x = torch.rand(3, 4, 5)
    assert torch.equal(SequenceDropout(0.5).eval()(x), x)
