"""The network's own arithmetic against torch's autograd and Adam."""

import numpy as np
import pytest
import torch

from benchmarks.reference import mlp_module
from mma4ctr.model.mlp import Adam, Network, initial_weights, loss_and_gradient, tanh_, torch_threads
from mma4ctr.model.training_defaults import LOSSES

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def batch(rows, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 11, generator=generator)
    return features.to(device), (torch.rand(rows, generator=generator) < 0.3).float().to(device)


def slow_loss(kind, logits, label):
    """The loss by its formula."""
    if kind == "bce":
        chance = torch.sigmoid(logits)
        return -(label * chance.log() + (1 - label) * (1 - chance).log()).mean()
    return -(torch.softmax(logits, 0).log() * label).sum() / max(float(label.sum()), 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", LOSSES)
def test_twenty_steps_equal_autograd_and_torchs_adam(kind, device):
    network = Network({name: values.to(device) for name, values in initial_weights(11, 0.3, 0).items()})
    model = mlp_module(network.state())
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
    weights = initial_weights(11, 0.3, 0, networks=3)
    assert not torch.equal(weights["head.weight"][0], weights["head.weight"][1])
    several = Network(weights)
    alone = [Network({name: values[one] for name, values in weights.items()}) for one in range(3)]
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
    logits, hidden = several.forward_from_first(first)
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


def test_the_first_weights_are_those_of_torchs_layers():
    """Drawn in the order of the layers, and stored under the names of the study's module."""
    torch.manual_seed(7)
    layers = [torch.nn.Linear(*sizes) for sizes in ((11, 128), (128, 32), (32, 4), (4, 1))]
    weights = initial_weights(11, 0.3, 7)
    for name, layer in zip(("body.0", "body.2", "body.4", "head"), layers, strict=True):
        assert torch.equal(weights[f"{name}.weight"], layer.weight)
        assert name == "head" or torch.equal(weights[f"{name}.bias"], layer.bias)
    state = Network(weights).state()
    assert list(state) == list(weights) and all(torch.equal(state[name], weights[name]) for name in state)


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
