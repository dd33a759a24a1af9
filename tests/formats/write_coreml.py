"""Writes golden/coreml.npz: small Core ML packages, and the weights that coremltools makes of them.

pip install coremltools==9.0; python -m tests.formats.write_coreml
"""

import tempfile
from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
from coremltools.converters.mil import Builder

GOLDEN = Path(__file__).parent / "golden" / "coreml.npz"
SHAPES = {"linear": (16, 24), "conv": (8, 4, 3, 3)}
INSIDE = "Data/com.apple.CoreML"


def model(layer: str, target: ct.target, dtype: type) -> ct.models.MLModel:
    weight = np.random.default_rng(0).standard_normal(SHAPES[layer]).astype(np.float32)
    inputs = [Builder.TensorSpec(shape=(1, 24) if layer == "linear" else (1, 4, 5, 5))]

    @Builder.program(input_specs=inputs, opset_version=target)
    def program(x):
        if layer == "linear":
            return Builder.linear(x=x, weight=weight, bias=np.ones(16, np.float32), name="fc")
        return Builder.conv(x=x, weight=weight, name="fc")

    precision = ct.precision.FLOAT32 if dtype == np.float32 else ct.precision.FLOAT16
    return ct.convert(program, minimum_deployment_target=target, compute_precision=precision)


def palettized(bits: int, **options: object) -> cto.OpPalettizerConfig:
    return cto.OpPalettizerConfig(mode="uniform", nbits=bits, weight_threshold=0, **options)


def linear(mode: str, **options: object) -> cto.OpLinearQuantizerConfig:
    return cto.OpLinearQuantizerConfig(mode=mode, weight_threshold=0, **options)


def samples() -> dict[str, tuple]:
    old, new = ct.target.iOS16, ct.target.iOS18
    found = {f"palettized {bits} old": ("linear", old, palettized(bits)) for bits in (1, 2, 4, 6, 8)}
    found |= {f"palettized {bits}": ("linear", new, palettized(bits)) for bits in (1, 2, 3, 4, 6, 8)}
    found["palettized filters"] = ("conv", new, palettized(4))
    found["palettized by channels"] = ("linear", new, palettized(2, granularity="per_grouped_channel", group_size=4))
    found["symmetric old"] = ("linear", old, linear("linear_symmetric"))
    found["asymmetric old"] = ("conv", old, linear("linear", dtype="uint8"))
    found["symmetric"] = ("linear", new, linear("linear_symmetric"))
    found["asymmetric per tensor"] = ("linear", new, linear("linear", granularity="per_tensor"))
    block = {"granularity": "per_block", "block_size": 8, "dtype": "int4"}
    found["int4 blocks"] = ("linear", new, linear("linear_symmetric", **block))
    found["uint4 blocks"] = ("linear", new, linear("linear", **{**block, "dtype": "uint4"}))
    found["int4 filters"] = ("conv", new, linear("linear", **{**block, "block_size": 2}))
    return found


def weight_of(made: ct.models.MLModel) -> np.ndarray:
    """The weight of the layer in a model that is not compressed."""
    (operation,) = [op for op in made._mil_program.functions["main"].operations if op.op_type in ("linear", "conv")]
    return operation.weight.val


def main() -> None:
    found = {}
    for dtype in (np.float32, np.float16):
        for name, (layer, target, config) in samples().items():
            if dtype == np.float16 and "4" not in name:
                continue
            compress = cto.palettize_weights if name.startswith("palettized") else cto.linear_quantize_weights
            made = compress(model(layer, target, dtype), cto.OptimizationConfig(global_config=config))
            key = f"{name}{' float16' * (dtype == np.float16)}"
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "m.mlpackage"
                made.save(str(path))
                for file in ("model.mlmodel", "weights/weight.bin"):
                    found[f"{key}/{file}"] = np.frombuffer((path / INSIDE / file).read_bytes(), np.uint8)
            found[f"{key}/weight"] = weight_of(cto.decompress_weights(made))
    np.savez_compressed(GOLDEN, **found)


if __name__ == "__main__":
    main()
