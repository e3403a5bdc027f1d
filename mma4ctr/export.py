"""A trained network as ONNX, for services that have no torch: from unscaled feature rows to probabilities."""

from pathlib import Path

import numpy as np

from mma4ctr.artifacts import Artifact, write_file
from mma4ctr.console import UserError
from mma4ctr.network import Network

OPSET = 17


def scaling_of(matrix: Artifact) -> tuple[np.ndarray, np.ndarray]:
    """float32 (in_features,) shift and scale of a matrix's columns: of the user part, the item part and the pairs."""
    names = [name for name in ("user", "item", "pair") if f"{name}_scale" in matrix.array_names]
    shift, scale = (np.concatenate([matrix.array(f"{name}_{part}") for name in names]) for part in ("shift", "scale"))
    return shift.astype(np.float32), scale.astype(np.float32)


def export_onnx(network: Network, matrix: Artifact, written: Path) -> None:
    """Write `written`: input `features` float32 (batch, in_features), the columns before scaling; output `probability`
    float32 (batch,).

    Raises `UserError` where the onnx package is not there.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise UserError("the onnx package is not there; install it with: pip install onnx") from None

    shift, scale = scaling_of(matrix)
    tensors = {"shift": shift, "scale": scale, "last": np.array([1], np.int64)}
    nodes = [
        helper.make_node("Sub", ["features", "shift"], ["moved"]),
        helper.make_node("Div", ["moved", "scale"], ["layer0"]),
    ]
    layers = [*zip(network.weights, network.biases, strict=True)]
    for number, (weight, bias) in enumerate(layers):
        tensors |= {f"weight{number}": weight.cpu().numpy().copy(), f"bias{number}": bias.cpu().numpy().copy()}
        inputs = [f"layer{number}", f"weight{number}", f"bias{number}"]
        nodes.append(helper.make_node("Gemm", inputs, [f"sum{number}"], transB=1))
        if number < len(layers) - 1:
            nodes.append(helper.make_node("Tanh", [f"sum{number}"], [f"layer{number + 1}"]))
    nodes.append(helper.make_node("Sigmoid", [f"sum{len(layers) - 1}"], ["chance"]))
    nodes.append(helper.make_node("Squeeze", ["chance", "last"], ["probability"]))
    graph = helper.make_graph(
        nodes,
        "MMa4CTR",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", len(shift)])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    write_file(written, model.SerializeToString())
