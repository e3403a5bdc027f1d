"""The MLP's arithmetic, written out: one flat vector of parameters, its gradient, and Adam.

For so small a network the price of an epoch is not the products but everything around them. Written out, with
buffers made once, a step at batch 512 took 0.6 of the time of autograd with torch's fused Adam (1 core); the test
`tests/test_network.py` holds both to the same numbers. torch's own tanh alone was a seventh of a step on a CPU:
numpy's took a sixth of its time.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional

# The automatic batch size leaves at least this many steps an epoch, as the study's 8192 did on its data.
STEPS_PER_EPOCH = 500


def automatic_batch_size(train_rows: int) -> int:
    """The power of two from 256 to 8192 that gives at least 500 steps an epoch (design section 7)."""
    return min(8192, max(256, 1 << max(0, (train_rows // STEPS_PER_EPOCH).bit_length() - 1)))


def tanh_(values: torch.Tensor) -> torch.Tensor:
    """tanh in place."""
    if values.device.type == "cpu":
        array = values.numpy()
        np.tanh(array, out=array)
        return values
    return values.tanh_()


class Network:
    """Linear layers with tanh between them, for batches of feature rows.

    Attributes:
        parameters, gradient: float32 (P,), all weights and biases one after the other.
    """

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        """`state`: `<layer>.weight` (out, in) and `<layer>.bias` (out,) of the layers in turn."""
        layers = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
        names = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
        self._shapes = {name: state[name].shape for name in names}
        self.parameters = torch.cat([state[name].reshape(-1) for name in names])
        self.gradient = torch.zeros_like(self.parameters)
        values, gradients = list(self._views(self.parameters).values()), list(self._views(self.gradient).values())
        self.weights, self.biases = values[::2], values[1::2]
        self._weight_gradients, self._bias_gradients = gradients[::2], gradients[1::2]
        self._buffers: dict[int, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}

    def _views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = flat.split([shape.numel() for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the parameters under their names."""
        return {name: value.clone() for name, value in self._views(self.parameters).items()}

    def _outputs(self, rows: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Buffers (rows, width) for each layer's outputs and their gradients; two sizes occur in an epoch."""
        if rows not in self._buffers:
            made = [[weight.new_empty(rows, len(weight)) for weight in self.weights] for _ in range(2)]
            self._buffers[rows] = made[0], made[1]
        return self._buffers[rows]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (rows,) of feature rows (rows, in); a view that the next call overwrites."""
        outputs, _ = self._outputs(len(features))
        before = features
        for weight, bias, out in zip(self.weights[:-1], self.biases[:-1], outputs[:-1], strict=True):
            torch.addmm(bias, before, weight.t(), out=out)
            before = tanh_(out)
        torch.addmm(self.biases[-1], before, self.weights[-1].t(), out=outputs[-1])
        return outputs[-1].squeeze(1)

    def backward(self, features: torch.Tensor, slope: torch.Tensor) -> None:
        """Fill `gradient` after `forward` of the same features; `slope` (rows,): the loss by each logit."""
        outputs, slopes = self._outputs(len(features))
        down = slope.unsqueeze(1)
        for layer in range(len(self.weights) - 1, -1, -1):
            before = outputs[layer - 1] if layer else features
            torch.mm(down.t(), before, out=self._weight_gradients[layer])
            torch.sum(down, 0, out=self._bias_gradients[layer])
            if layer:
                below = slopes[layer - 1]
                torch.mm(down, self.weights[layer], out=below)
                torch.ops.aten.tanh_backward.grad_input(below, before, grad_input=below)
                down = below

    def head(self, first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (rows,) and last hidden layer (rows, 4) from the first layer's outputs before tanh, which are
        overwritten."""
        before = tanh_(first)
        for weight, bias in zip(self.weights[1:-1], self.biases[1:-1], strict=True):
            before = tanh_(torch.addmm(bias, before, weight.t()))
        return torch.addmm(self.biases[-1], before, self.weights[-1].t()).squeeze(1), before


def loss_and_slope(kind: str, logits: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean loss of a batch, and its derivative by each logit (rows,).

    `bce`, or `listwise`: a softmax over the batch, as the published code had it; a batch without a positive is 0.
    """
    if kind == "bce":
        loss = functional.binary_cross_entropy_with_logits(logits, label)
        return loss, torch.sigmoid(logits).sub_(label).div_(len(label))
    positives = label.sum()
    count = positives.clamp(min=1)
    chance = functional.log_softmax(logits, dim=0)
    loss = -(label * chance).sum() / count
    return loss, (chance.exp_() * positives).sub_(label).div_(count)


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1 with the corrections folded into the rate) on one flat vector."""

    BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

    def __init__(self, parameters: torch.Tensor) -> None:
        self.steps = 0
        self.mean, self.square = torch.zeros_like(parameters), torch.zeros_like(parameters)
        self._root = torch.empty_like(parameters)

    def step(self, parameters: torch.Tensor, gradient: torch.Tensor, rate: float) -> None:
        """Move `parameters` in place."""
        self.steps += 1
        self.mean.lerp_(gradient, 1 - self.BETA1)
        self.square.mul_(self.BETA2).addcmul_(gradient, gradient, value=1 - self.BETA2)
        torch.sqrt(self.square, out=self._root)
        correction = (1 - self.BETA2**self.steps) ** 0.5
        self._root.div_(correction).add_(self.EPSILON)
        size = min(rate / (1 - self.BETA1**self.steps), torch.finfo(torch.float32).max)
        parameters.addcdiv_(self.mean, self._root, value=-size)
