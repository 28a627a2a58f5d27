import pytest
import torch

from snnrun.errors import ConfigError


@pytest.fixture
def built(specified):
    def make(*overrides, shape=(3, 32, 32)):
        spec = specified("dataset=synthetic", "method=saf", "model=vgg_sws", *overrides)
        return spec.model.build(spec.method.plain_kit(spec.neuron, spec.norm), shape, 10)

    return make


@pytest.mark.parametrize("feedback, millions", [("false", 9.2), ("true", 9.5)])
def test_has_the_size_of_the_papers_network(built, feedback, millions):
    net = built(f"model.feedback={feedback}")
    weights = 9 * (3 * 64 + 64 * 128 + 128 * 256 + 256**2 + 256 * 512 + 3 * 512**2) + 512 * 10
    others = 2 * (64 + 128 + 2 * 256 + 4 * 512) + 10  # biases and gains
    extra = 9 * 512 * 64 + 64 if feedback == "true" else 0
    count = sum(p.numel() for p in net.parameters())
    assert count == weights + others + extra
    assert count == pytest.approx(millions * 1e6, rel=0.01)


def test_scales_what_every_layer_sends_and_pools_between_groups(built):
    net = built("model.channels=[[4,4],[4]]", "model.scale=3", shape=(1, 8, 8))
    x = 5 * torch.randn(2, 1, 1, 8, 8)
    sent = net.layers[0](x)
    assert set(sent.unique().tolist()) == {0.0, 3.0}
    second = net.layers[1](sent)
    assert second.shape == (2, 1, 4, 4, 4)
    assert net.layers[2](second).shape == (2, 1, 4, 4, 4)


def test_feedback_starts_silent(built):
    torch.manual_seed(0)
    plain = built("model.channels=[[4,4],[4]]", shape=(1, 8, 8))
    fed = built("model.channels=[[4,4],[4]]", "model.feedback=true", shape=(1, 8, 8))
    fed.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(3, 2, 1, 8, 8)
    assert torch.equal(fed(x), plain(x))


def test_too_small_an_input_is_refused(built):
    with pytest.raises(ConfigError, match="at least 8x8"):
        built(shape=(1, 6, 6))
