import pytest
import torch
import torch.nn.functional as F

from snnrun.methods.tet import tet_loss

pytestmark = pytest.mark.usefixtures("fp64")

STEPS, BATCH, CLASSES = 5, 4, 7


def sdt_loss(outputs, y):
    return F.cross_entropy(outputs.mean(0), y)


@pytest.fixture
def outputs():
    return (3 * torch.randn(STEPS, BATCH, CLASSES)).requires_grad_()


@pytest.fixture
def y():
    return torch.randint(CLASSES, (BATCH,))


def test_loss_on_the_mean_never_exceeds_the_mean_loss():
    for _ in range(3000):
        outputs = torch.randn(3, 2, 4) * torch.rand(()) * 10
        y = torch.randint(4, (2,))
        assert sdt_loss(outputs, y) <= tet_loss(outputs, y, lamb=0, phi=1) + 1e-12


def test_gap_between_the_losses_is_that_of_the_normalisers(outputs, y):
    gap = tet_loss(outputs, y, lamb=0, phi=1) - sdt_loss(outputs, y)
    expected = (outputs.logsumexp(-1).mean(0) - outputs.mean(0).logsumexp(-1)).mean()
    torch.testing.assert_close(gap, expected, rtol=0, atol=1e-12)


def test_losses_coincide_when_steps_differ_by_constants_only(y):
    outputs = torch.randn(BATCH, CLASSES) + torch.randn(STEPS, BATCH, 1)
    torch.testing.assert_close(
        tet_loss(outputs, y, lamb=0, phi=1), sdt_loss(outputs, y), rtol=0, atol=1e-12
    )


def test_losses_coincide_at_one_step(outputs, y):
    one = outputs[:1]
    torch.testing.assert_close(
        tet_loss(one, y, lamb=0, phi=1), sdt_loss(one, y), rtol=0, atol=1e-15
    )


def test_gradient_at_every_step_is_that_of_its_own_cross_entropy(outputs, y):
    lamb, phi = 0.3, 0.7
    (grad,) = torch.autograd.grad(tet_loss(outputs, y, lamb=lamb, phi=phi), outputs)
    entropy = (outputs.softmax(-1) - F.one_hot(y, CLASSES)) / (STEPS * BATCH)
    pull = 2 * (outputs - phi) / outputs.numel()
    torch.testing.assert_close(grad, (1 - lamb) * entropy + lamb * pull, rtol=0, atol=1e-15)
    assert not torch.allclose(grad[0], grad[1])


def test_without_pull_the_loss_is_the_mean_cross_entropy_to_the_bit(outputs, y):
    expected = F.cross_entropy(outputs.flatten(0, 1), y.repeat(STEPS))
    assert torch.equal(tet_loss(outputs, y, lamb=0, phi=9.0), expected)


def test_pull_alone_is_the_mean_squared_distance(outputs, y):
    torch.testing.assert_close(
        tet_loss(outputs, y, lamb=1, phi=2.0), (outputs - 2).square().mean(), rtol=1e-12, atol=0
    )
