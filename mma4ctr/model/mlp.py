"""The MLP: its layers, first weights, forward and backward pass, loss and Adam.

Several networks can train on the same batches, each with its own loss. Their prediction is the mean of their logits.

For a network this small, the matrix products are not the main cost of a step. With preallocated buffers and explicit
gradients a step takes about half the time of `nn.Module` with `torch.optim.Adam(fused=True)`
(`python -m benchmarks.training_step`); the tests compare both. On a CPU numpy's tanh takes a sixth of the time of
torch's.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional

# Widths of the hidden layers, as in the study.
HIDDEN = (128, 32, 4)


@contextmanager
def torch_threads(most: int) -> Iterator[int]:
    """Limit the threads of torch's operations within the block.

    Args:
        most: Largest number of threads; at least one is used.

    Yields:
        The number of threads before.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, most)))
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def save_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a `.safetensors` file.

    The library's own writer does not raise `OSError` when the disk is full; this one does.
    """
    path.write_bytes(save({name: value.cpu() for name, value in weights.items()}))


def tanh_(values: torch.Tensor) -> torch.Tensor:
    """Apply tanh in place."""
    if values.device.type == "cpu":
        array = values.numpy()
        np.tanh(array, out=array)
        return values
    return values.tanh_()


def layer_sizes(in_features: int) -> list[tuple[int, int]]:
    """The widths (in, out) of each linear layer."""
    return list(pairwise((in_features, *HIDDEN, 1)))


def parameter_count(in_features: int, networks: int = 1) -> int:
    """Weights and biases of all networks together."""
    return networks * sum((before + 1) * after for before, after in layer_sizes(in_features))


def _initial_layers(in_features: int, positive_share: float) -> dict[str, torch.Tensor]:
    layers = [nn.Linear(before, after) for before, after in layer_sizes(in_features)]
    nn.init.constant_(layers[-1].bias, math.log(positive_share / (1 - positive_share)))
    # The names under which the study's `nn.Sequential` of linear layers and tanh stores them.
    names = [*(f"body.{2 * place}" for place in range(len(HIDDEN))), "head"]
    return {
        f"{name}.{kind}": values.detach()
        for name, layer in zip(names, layers, strict=True)
        for kind, values in layer.named_parameters()
    }


def initial_weights(in_features: int, positive_share: float, seed: int, networks: int = 1) -> dict[str, torch.Tensor]:
    """Draw the first weights as `nn.Linear` does; they depend on the seed alone, not on the device.

    The last bias starts at the log-odds of the positive share. With rare positives the first epoch is otherwise spent
    on finding it: at 1 in 186 and batch 8192, validation AUC after the first epoch was 0.50, which the validation
    interrupt took for a collapse; with this bias it was 0.85.

    Args:
        in_features: Columns of a feature row.
        positive_share: Share of positives among the training rows, between 0 and 1.
        seed: Of the random generator.
        networks: Number of networks.

    Returns:
        float32 `<layer>.weight` (out, in) and `<layer>.bias` (out,) of each layer; with several networks
        (networks, out, in) and (networks, out).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        states = [_initial_layers(in_features, positive_share) for _ in range(networks)]
    return states[0] if networks == 1 else {name: torch.stack([one[name] for one in states]) for name in states[0]}


class Network:
    """Linear layers with tanh between them, for one network or several that train together.

    Attributes:
        networks: Number of networks.
        parameters: float32 (P,), all weights and biases.
        gradient: float32 (P,), the gradient of the loss, written by `backward`.
        weights: For each layer (networks, out, in), views of `parameters`.
        biases: For each layer (networks, out), views of `parameters`.
    """

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy weights and biases from a state as `initial_weights` and `state` give it; layers are in its order."""
        layers = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
        names = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
        self._shapes = {name: state[name].shape for name in names}
        first = self._shapes[names[0]]
        self.networks = first[0] if len(first) == 3 else 1
        self._single = len(first) == 2
        self.parameters = torch.cat([state[name].reshape(-1) for name in names])
        self.gradient = torch.zeros_like(self.parameters)
        values, gradients = self._by_network(self.parameters), self._by_network(self.gradient)
        self.weights, self.biases = values[::2], values[1::2]
        self._weight_gradients, self._bias_gradients = gradients[::2], gradients[1::2]
        self._buffers: dict[int, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}

    def _views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = flat.split([shape.numel() for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def _by_network(self, flat: torch.Tensor) -> list[torch.Tensor]:
        views = self._views(flat).values()
        return [view.unsqueeze(0) if self._single else view for view in views]

    def state(self) -> dict[str, torch.Tensor]:
        """Copy the parameters, by name."""
        return {name: value.clone() for name, value in self._views(self.parameters).items()}

    def _outputs(self, rows: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Buffers (networks, rows, width) of each layer's outputs and their gradients; an epoch has two batch sizes."""
        if rows not in self._buffers:
            made = [[bias.new_empty(self.networks, rows, bias.shape[1]) for bias in self.biases] for _ in range(2)]
            self._buffers[rows] = made[0], made[1]
        return self._buffers[rows]

    def _linear(
        self, layer: int, inputs: Sequence[torch.Tensor], out: Sequence[torch.Tensor | None]
    ) -> list[torch.Tensor]:
        """One layer of each network, before tanh: (rows, out) from (rows, in)."""
        parts = zip(self.biases[layer], inputs, self.weights[layer], out, strict=True)
        return [torch.addmm(bias, before, weight.t(), out=into) for bias, before, weight, into in parts]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (networks, rows) of feature rows (rows, in); the next call overwrites them."""
        outputs, _ = self._outputs(len(features))
        before = features.expand(self.networks, *features.shape)
        for layer, out in enumerate(outputs):
            self._linear(layer, before.unbind(), out.unbind())
            before = out if out is outputs[-1] else tanh_(out)
        return before.squeeze(2)

    def backward(self, features: torch.Tensor, gradient: torch.Tensor) -> None:
        """Write the gradient of the loss to `self.gradient`, after `forward` of the same features.

        Args:
            features: float32 (rows, in).
            gradient: float32 (networks, rows), derivative of the loss by each logit.
        """
        outputs, logit_gradients = self._outputs(len(features))
        down = gradient.unsqueeze(2)
        for layer in range(len(self.weights) - 1, -1, -1):
            before = outputs[layer - 1] if layer else features.expand(self.networks, *features.shape)
            for one in range(self.networks):
                torch.mm(down[one].t(), before[one], out=self._weight_gradients[layer][one])
            torch.sum(down, 1, out=self._bias_gradients[layer])
            if layer:
                below = logit_gradients[layer - 1]
                for one in range(self.networks):
                    torch.mm(down[one], self.weights[layer][one], out=below[one])
                torch.ops.aten.tanh_backward.grad_input(below, before, grad_input=below)
                down = below

    def forward_from_first(self, first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the layers after the first.

        Args:
            first: float32 (rows, networks x 128), the first layer's outputs before tanh; overwritten.

        Returns:
            Mean logits (rows,) and the last hidden layers (rows, networks x 4).
        """
        before = tanh_(first)
        for layer in range(1, len(self.weights) - 1):
            inputs = before.chunk(self.networks, dim=1)
            before = tanh_(torch.cat(self._linear(layer, inputs, [None] * self.networks), dim=1))
        # The mean of the logits is one product over all hidden layers.
        weight = self.weights[-1].flatten().unsqueeze(1) / self.networks
        return torch.addmm(self.biases[-1].mean(), before, weight).squeeze(1), before


def loss_and_gradient(kind: str, logits: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean loss of a batch, and its gradient.

    Args:
        kind: `bce`, or `listwise`: a softmax over the batch, as published; 0 for a batch without a positive.
        logits: float32 (rows,) or (networks, rows).
        label: float32 (rows,) of 0 and 1.

    Returns:
        The loss, averaged over the networks, and the derivative of each network's own loss by its logits.
    """
    if kind == "bce":
        loss = functional.binary_cross_entropy_with_logits(logits, label.expand_as(logits))
        return loss, torch.sigmoid(logits).sub_(label).div_(len(label))
    positives = label.sum()
    count = positives.clamp(min=1)
    probability = functional.log_softmax(logits, dim=-1)
    loss = -(label * probability).sum(dim=-1).mean() / count
    return loss, (probability.exp_() * positives).sub_(label).div_(count)


class Adam:
    """Adam on one flat vector (Kingma and Ba 2015, algorithm 1, the bias corrections folded into the learning rate)."""

    BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

    def __init__(self, parameters: torch.Tensor) -> None:
        self.steps = 0
        self.mean, self.square = torch.zeros_like(parameters), torch.zeros_like(parameters)
        self._root = torch.empty_like(parameters)

    def step(self, parameters: torch.Tensor, gradient: torch.Tensor, learning_rate: float) -> None:
        """Update `parameters` (P,) in place from their gradient (P,)."""
        self.steps += 1
        self.mean.lerp_(gradient, 1 - self.BETA1)
        self.square.mul_(self.BETA2).addcmul_(gradient, gradient, value=1 - self.BETA2)
        torch.sqrt(self.square, out=self._root)
        correction = (1 - self.BETA2**self.steps) ** 0.5
        self._root.div_(correction).add_(self.EPSILON)
        size = min(learning_rate / (1 - self.BETA1**self.steps), torch.finfo(torch.float32).max)
        parameters.addcdiv_(self.mean, self._root, value=-size)
