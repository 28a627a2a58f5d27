import pytest
import torch

from snnrun.methods.stepwise import mixed_gradient, mixed_loss, one_hot


@pytest.mark.parametrize("alpha", [0.0, 0.05, 1.0])
def test_gradient_of_the_mixed_loss_is_that_of_its_graph(alpha):
    torch.manual_seed(0)
    z = (5 * torch.randn(7, 4, dtype=torch.float64)).requires_grad_()
    y = torch.randint(4, (7,))
    (expected,) = torch.autograd.grad(mixed_loss(z, y, alpha), z)
    found = mixed_gradient(z.detach(), one_hot(y, z), alpha)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
