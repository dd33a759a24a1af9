"""Writes golden/onnx.npz: small ONNX models, and the weights that ONNX Runtime makes of their constants.

pip install onnxruntime==1.32.0 onnx==1.23.2 onnx-ir; python -m tests.formats.write_onnx
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

GOLDEN = Path(__file__).parent / "golden" / "onnx.npz"
RNG = np.random.default_rng(0)

# type: bits of a code, least code
INTEGERS = {"INT8": (8, -128), "UINT8": (8, 0), "INT4": (4, -8), "UINT4": (4, 0), "INT2": (2, -2), "UINT2": (2, 0)}
LAYOUTS = {
    "tensor": ((6, 35), (), {}),
    "rows": ((6, 35), (6,), {"axis": 0}),
    "columns": ((6, 35), (35,), {"axis": 1}),
    "even columns": ((7, 12), (12,), {"axis": -1}),
    "blocks": ((6, 64), (6, 4), {"axis": 1, "block_size": 16}),
    "padded blocks": ((6, 35), (6, 3), {"axis": 1, "block_size": 16}),
    "blocks of columns": ((32, 5), (2, 5), {"axis": 0, "block_size": 16}),
    "filters": ((4, 3, 2, 2), (4,), {"axis": 0}),
    "filters of the second axis": ((4, 3, 2, 2), (3,), {"axis": 1}),
    "blocks of channels": ((4, 6, 2, 2), (4, 2, 2, 2), {"axis": 1, "block_size": 3}),
    "blocks of rows of filters": ((4, 3, 2, 8), (4, 3, 2, 2), {"axis": 3, "block_size": 4}),
    "vector": ((12,), (12,), {"axis": 0}),
    "blocks of a vector": ((12,), (3,), {"axis": 0, "block_size": 4}),
}


def linear(kind: str, layout: str, zeros: bool, raw: bool = True) -> onnx.ModelProto:
    """DequantizeLinear of a constant "w_quantized" to "w"."""
    shape, scales, attributes = LAYOUTS[layout]
    number = getattr(TensorProto, kind)
    count, many = int(np.prod(shape)), int(np.prod(scales))
    if kind in INTEGERS:
        bits, least = INTEGERS[kind]
        codes, points = (RNG.integers(least, least + 2**bits, n) for n in (count, many))
    else:
        codes, points = RNG.standard_normal(count).astype(np.float32) * 9, np.zeros(many, int)
    constants = [
        tensor("w_quantized", number, shape, codes, raw),
        numpy_helper.from_array(RNG.uniform(0.001, 0.1, scales).astype(np.float32), "w_scale"),
    ]
    inputs = ["w_quantized", "w_scale"]
    if zeros:
        constants.append(tensor("w_zero_point", number, scales, points, raw))
        inputs.append("w_zero_point")
    return model([helper.make_node("DequantizeLinear", inputs, ["w"], **attributes)], constants, shape)


def tensor(name: str, number: int, shape: tuple[int, ...], values: np.ndarray, raw: bool) -> onnx.TensorProto:
    made = helper.make_tensor(name, number, shape, values.tolist())
    return numpy_helper.from_array(numpy_helper.to_array(made), name) if raw else made


def model(nodes: list, constants: list, shape: tuple[int, ...]) -> onnx.ModelProto:
    output = helper.make_tensor_value_info("w", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "g", [], [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)


def codebook(kind: str, shape: tuple[int, ...] = (5, 7)) -> onnx.ModelProto:
    """Gather of 4 values, some of them through Cast."""
    number = getattr(TensorProto, kind)
    index = tensor("w_index", number, shape, RNG.integers(0, 4, int(np.prod(shape))), True)
    book = numpy_helper.from_array(np.array([-0.5, -0.0, 0.1, 2], np.float32), "w_codebook")
    if kind in ("INT32", "INT64"):
        return model([helper.make_node("Gather", ["w_codebook", "w_index"], ["w"])], [book, index], shape)
    cast = helper.make_node("Cast", ["w_index"], ["w_cast"], to=TensorProto.INT32)
    gather = helper.make_node("Gather", ["w_codebook", "w_cast"], ["w"])
    return model([cast, gather], [book, index], shape)


def network() -> onnx.ModelProto:
    """A convolution, and a product with a matrix K × N of K = 100."""
    weight, matrix = (
        numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)
        for shape, name in (((6, 4, 3, 3), "conv.weight"), ((100, 8), "fc.weight"))
    )
    bias = numpy_helper.from_array(RNG.standard_normal(6).astype(np.float32), "conv.bias")
    shape = numpy_helper.from_array(np.array([-1, 100]), "shape")
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], "conv"),
        helper.make_node("Reshape", ["c", "shape"], ["r"], "reshape"),
        helper.make_node("MatMul", ["r", "fc.weight"], ["y"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 12, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 8])],
        [weight, bias, matrix, shape],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


class Samples(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = [{"x": RNG.standard_normal((1, 4, 12, 7)).astype(np.float32)} for _ in range(3)]

    def get_next(self) -> dict | None:
        return self.left.pop() if self.left else None


def quantized_by_runtime(channel: bool, kind: QuantType) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("a.onnx", "b.onnx")]
        onnx.save(network(), paths[0])
        quantize_static(
            *paths, Samples(), QuantFormat.QDQ, per_channel=channel, weight_type=kind, activation_type=QuantType.QUInt8
        )
        return onnx.load(paths[1])


def n_bits(bits: int, symmetric: bool) -> onnx.ModelProto:
    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=symmetric, bits=bits, accuracy_level=1)
    quantizer = MatMulNBitsQuantizer(network(), algo_config=config)
    quantizer.process()
    return quantizer.model.model


def decoded(made: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Weights by ONNX Runtime: outputs of nodes that read constants only; of MatMulNBits, the product with 1."""
    constants = {t.name for t in made.graph.initializer}
    nodes = []
    for node in made.graph.node:
        if node.op_type in ("DequantizeLinear", "Cast", "Gather") and set(node.input) <= constants:
            nodes.append(node)
            constants.update(node.output)
        if node.op_type == "MatMulNBits":
            size = next(a.i for a in node.attribute if a.name == "K")
            eye = numpy_helper.from_array(np.eye(size, dtype=np.float32), "eye")
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            copied.input[0], copied.output[0] = "eye", f"{node.output[0]}_weight"
            made.graph.initializer.append(eye)
            nodes.append(copied)
    read = {name for node in nodes for name in node.input}
    names = [node.output[0] for node in nodes if node.output[0] not in read]
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    graph = helper.make_graph(nodes, "g", [], outputs, made.graph.initializer)
    whole = helper.make_model(graph, opset_imports=made.opset_import, ir_version=made.ir_version)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(None, {}), strict=True))


def main() -> None:
    models = {f"{kind} {layout}": linear(kind, layout, True) for kind in INTEGERS for layout in LAYOUTS}
    models |= {f"{kind} no zero point": linear(kind, "rows", False) for kind in ("INT8", "UINT8", "INT4", "UINT4")}
    models |= {f"{kind} list": linear(kind, "blocks", True, raw=False) for kind in INTEGERS}
    for kind in ("FLOAT8E4M3FN", "FLOAT8E5M2"):
        models |= {
            f"{kind} {layout}": linear(kind, layout, layout == "rows") for layout in ("tensor", "rows", "blocks")
        }
    models |= {f"codebook {kind}": codebook(kind) for kind in ("UINT8", "INT32", "INT64", "UINT4", "UINT16", "UINT2")}
    models |= {"codebook odd": codebook("UINT4", (3, 5, 3))}
    for channel in (False, True):
        for kind in (QuantType.QInt8, QuantType.QUInt8):
            models[f"runtime {kind}{' per channel' * channel}"] = quantized_by_runtime(channel, kind)
    models |= {f"MatMulNBits {b}{' symmetric' * s}": n_bits(b, s) for b in (4, 8) for s in (False, True)}
    found = {"network/model": np.frombuffer(network().SerializeToString(), np.uint8)}
    for name, made in models.items():
        found[f"{name}/model"] = np.frombuffer(made.SerializeToString(), np.uint8)
        for output, value in decoded(made).items():
            found[f"{name}/{output}"] = value
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **found)


if __name__ == "__main__":
    main()
