"""The arithmetic written out against torch's autograd and torch's Adam."""

import numpy as np
import pytest
import torch

from mma4ctr.model.mlp import Adam, Network, loss_and_gradient, tanh_, torch_threads
from mma4ctr.model.trainer import LOSSES, MLP, fresh_models, side_by_side

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def batch(rows, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 11, generator=generator)
    return features.to(device), (torch.rand(rows, generator=generator) < 0.3).float().to(device)


def slow_loss(kind, logits, label):
    """The formulas as one writes them down."""
    if kind == "bce":
        chance = torch.sigmoid(logits)
        return -(label * chance.log() + (1 - label) * (1 - chance).log()).mean()
    return -(torch.softmax(logits, 0).log() * label).sum() / max(float(label.sum()), 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", LOSSES)
def test_twenty_steps_equal_autograd_and_torchs_adam(kind, device):
    (model,) = fresh_models(11, 0.3, 0, torch.device(device))
    network = Network(model.state_dict())
    adam = Adam(network.parameters)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(20):
        features, label = batch(64 if step < 19 else 37, device, step)
        optimizer.zero_grad()
        expected = slow_loss(kind, model(features), label)
        expected.backward()
        with torch.no_grad():
            loss, gradient = loss_and_gradient(kind, network.forward(features), label)
            network.backward(features, gradient)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        gradient = torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])
        assert torch.allclose(network.gradient, gradient, atol=2e-6)
        optimizer.step()
        adam.step(network.parameters, network.gradient, 0.01)
    trained = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    # A softmax over the batch does not depend on the last bias: its gradient is rounding, which Adam blows up.
    compared = slice(None, -1 if kind == "listwise" else None)
    assert torch.allclose(network.parameters[compared], trained[compared], atol=2e-4)


@pytest.mark.parametrize("kind", LOSSES)
def test_networks_side_by_side_learn_as_each_alone(kind):
    models = fresh_models(11, 0.3, 0, torch.device("cpu"), 3)
    assert not torch.equal(models[0].head.weight, models[1].head.weight)
    several, alone = side_by_side(models), [side_by_side([model]) for model in models]
    optimizers = [Adam(network.parameters) for network in (several, *alone)]
    for step in range(10):
        features, label = batch(64 if step < 9 else 37, "cpu", step)
        losses = []
        for network, adam in zip((several, *alone), optimizers, strict=True):
            loss, gradient = loss_and_gradient(kind, network.forward(features), label)
            network.backward(features, gradient)
            adam.step(network.parameters, network.gradient, 0.01)
            losses.append(float(loss))
        assert losses[0] == pytest.approx(np.mean(losses[1:]), rel=1e-5)
    for place, network in enumerate(alone):
        for name, values in network.state().items():
            if not (kind == "listwise" and name == "head.bias"):  # its gradient is rounding, see above
                assert torch.allclose(several.state()[name][place], values, atol=1e-5)
    features, _ = batch(50, "cpu", 99)
    mean = torch.stack([network.forward(features)[0].clone() for network in alone]).mean(dim=0)
    first = features @ several.weights[0].flatten(0, 1).T + several.biases[0].flatten()
    logits, hidden = several.head(first)
    assert torch.allclose(logits, mean, atol=1e-3) and hidden.shape == (50, 12)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_batch_of_one_class(kind):
    logits = torch.randn(10)
    for label in (torch.zeros(10), torch.ones(10)):
        loss, gradient = loss_and_gradient(kind, logits, label)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    loss, gradient = loss_and_gradient("listwise", logits, torch.zeros(10))
    assert loss == 0 and (gradient == 0).all()


def test_tanh():
    values = torch.linspace(-20, 20, 1001)
    expected = np.tanh(values.numpy().astype(np.float64))
    assert tanh_(values.clone()).numpy() == pytest.approx(expected, abs=3e-7)


def test_state_names_are_the_models():
    (model,) = fresh_models(11, 0.3, 0, torch.device("cpu"))
    state = Network(model.state_dict()).state()
    assert list(state) == list(model.state_dict())
    MLP(11).load_state_dict(state)


def test_threads_are_held_back_and_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for most, taken in ((0, 1), (1, 1), (2, 2), (8, 3)):
            with torch_threads(most) as had:
                assert (had, torch.get_num_threads()) == (3, taken)
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
