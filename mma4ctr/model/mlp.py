"""The MLP's arithmetic, written out: one flat vector of parameters, its gradient, and Adam. Several networks can learn
side by side from the same batches, each with its own loss; what they say together is the mean of their logits.

For so small a network the price of an epoch is not the products but everything around them. Written out, with
buffers made once, a step at batch 512 took 0.6 of the time of autograd with torch's fused Adam (1 core); the test
`tests/test_network.py` holds both to the same numbers. torch's own tanh alone was a seventh of a step on a CPU:
numpy's took a sixth of its time.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch.nn import functional

# The automatic batch size leaves at least this many steps an epoch, as the study's 8192 did on its data.
STEPS_PER_EPOCH = 500


@contextmanager
def torch_threads(most: int) -> Iterator[int]:
    """Let torch split its operations over at most so many threads; gives the number that it had."""
    had = torch.get_num_threads()
    torch.set_num_threads(max(1, min(had, most)))
    try:
        yield had
    finally:
        torch.set_num_threads(had)


def automatic_batch_size(train_rows: int) -> int:
    """The power of two from 256 to 8192 that gives at least 500 steps an epoch (design section 7)."""
    return min(8192, max(256, 1 << max(0, (train_rows // STEPS_PER_EPOCH).bit_length() - 1)))


def save_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a `.safetensors` file. Unlike the library's own writer it fails as any file does, with an `OSError`."""
    path.write_bytes(save({name: value.cpu() for name, value in weights.items()}))


def tanh_(values: torch.Tensor) -> torch.Tensor:
    """tanh in place."""
    if values.device.type == "cpu":
        array = values.numpy()
        np.tanh(array, out=array)
        return values
    return values.tanh_()


class Network:
    """Linear layers with tanh between them, of one network or of several side by side, for batches of feature rows.

    Attributes:
        parameters, gradient: float32 (P,), all weights and biases one after the other.
        weights, biases: of each layer (networks, out, in) and (networks, out), views of `parameters`.
    """

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        """`state`: `<layer>.weight` (out, in) and `<layer>.bias` (out,) of the layers in turn; of several networks
        (networks, out, in) and (networks, out)."""
        layers = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
        names = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
        self._shapes = {name: state[name].shape for name in names}
        first = self._shapes[names[0]]
        self.networks = first[0] if len(first) == 3 else 1
        self._alone = len(first) == 2
        self.parameters = torch.cat([state[name].reshape(-1) for name in names])
        self.gradient = torch.zeros_like(self.parameters)
        values, gradients = self._side_by_side(self.parameters), self._side_by_side(self.gradient)
        self.weights, self.biases = values[::2], values[1::2]
        self._weight_gradients, self._bias_gradients = gradients[::2], gradients[1::2]
        self._buffers: dict[int, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}

    def _views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = flat.split([shape.numel() for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def _side_by_side(self, flat: torch.Tensor) -> list[torch.Tensor]:
        views = self._views(flat).values()
        return [view.unsqueeze(0) if self._alone else view for view in views]

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the parameters under their names."""
        return {name: value.clone() for name, value in self._views(self.parameters).items()}

    def _outputs(self, rows: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Buffers (networks, rows, width) for each layer's outputs and their gradients; two sizes occur in an epoch."""
        if rows not in self._buffers:
            made = [[bias.new_empty(self.networks, rows, bias.shape[1]) for bias in self.biases] for _ in range(2)]
            self._buffers[rows] = made[0], made[1]
        return self._buffers[rows]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (networks, rows) of feature rows (rows, in); a view that the next call overwrites."""
        outputs, _ = self._outputs(len(features))
        before = features.expand(self.networks, *features.shape)
        for weight, bias, out in zip(self.weights, self.biases, outputs, strict=True):
            for one in range(self.networks):
                torch.addmm(bias[one], before[one], weight[one].t(), out=out[one])
            before = out if out is outputs[-1] else tanh_(out)
        return before.squeeze(2)

    def backward(self, features: torch.Tensor, gradient: torch.Tensor) -> None:
        """Fill `gradient` after `forward` of the same features; `gradient` (networks, rows): the loss by each logit."""
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

    def head(self, first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean logits (rows,) and last hidden layers (rows, networks x 4) from the first layers' outputs before tanh,
        (rows, networks x 128), which are overwritten."""
        before = tanh_(first)
        for weight, bias in zip(self.weights[1:-1], self.biases[1:-1], strict=True):
            parts = zip(before.chunk(self.networks, dim=1), weight, bias, strict=True)
            before = tanh_(torch.cat([torch.addmm(b, part, w.t()) for part, w, b in parts], dim=1))
        # The mean of the logits is one product over all hidden layers.
        weight = self.weights[-1].flatten().unsqueeze(1) / self.networks
        return torch.addmm(self.biases[-1].mean(), before, weight).squeeze(1), before


def loss_and_gradient(kind: str, logits: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean loss of a batch over the networks, and each network's derivative of its own by each logit.

    Args:
        logits: (rows,) or (networks, rows). label: (rows,) of 0 and 1.

    `bce`, or `listwise`: a softmax over the batch, as the published code had it; a batch without a positive is 0.
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
