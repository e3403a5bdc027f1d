"""A trained network as ONNX, for services that have no torch: from unscaled feature rows to probabilities."""

import numpy as np

from mma4ctr.model.mlp import Network
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import Artifact

OPSET = 17


def scaling_of(matrix: Artifact) -> tuple[np.ndarray, np.ndarray]:
    """float32 (in_features,) shift and scale of a matrix's columns: of the user part, the item part and the others."""
    names = [name for name in ("user", "item", "row") if f"{name}_scale" in matrix.array_names]
    shift, scale = (np.concatenate([matrix.array(f"{name}_{part}") for name in names]) for part in ("shift", "scale"))
    return shift.astype(np.float32), scale.astype(np.float32)


def onnx_model(network: Network, matrix: Artifact) -> bytes:
    """Export a network.

    Args:
        network: Its weights.
        matrix: The feature matrix, for the scaling of its columns.

    Returns:
        A serialized ONNX model: input `features` float32 (batch, in_features), the columns before scaling in the order
        of the matrix; output `probability` float32 (batch,).

    Raises:
        UserError: The onnx package is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise UserError(
            "the onnx package is not there; install it with: python3 -m pip --python .venv/bin/python install onnx"
        ) from None

    shift, scale = scaling_of(matrix)
    tensors = {"shift": shift, "scale": scale, "last": np.array([1], np.int64)}
    nodes = [
        helper.make_node("Sub", ["features", "shift"], ["moved"]),
        helper.make_node("Div", ["moved", "scale"], ["scaled"]),
    ]
    layers = len(network.weights)
    logits = []
    for one in range(network.networks):
        before = "scaled"
        for layer in range(layers):
            name = f"{one}.{layer}"
            weight, bias = network.weights[layer][one], network.biases[layer][one]
            tensors |= {f"weight{name}": weight.cpu().numpy().copy(), f"bias{name}": bias.cpu().numpy().copy()}
            nodes.append(helper.make_node("Gemm", [before, f"weight{name}", f"bias{name}"], [f"sum{name}"], transB=1))
            if layer < layers - 1:
                before = f"layer{name}"
                nodes.append(helper.make_node("Tanh", [f"sum{name}"], [before]))
        logits.append(f"sum{one}.{layers - 1}")
    nodes.append(helper.make_node("Mean", logits, ["logit"]))
    nodes.append(helper.make_node("Sigmoid", ["logit"], ["column"]))
    nodes.append(helper.make_node("Squeeze", ["column", "last"], ["probability"]))
    graph = helper.make_graph(
        nodes,
        "MMa4CTR",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", len(shift)])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
