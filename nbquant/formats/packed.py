"""Detection of weights already quantized by other libraries, by their names in checkpoints and their modules.

The components of such a weight (scales, zero points, packed integers, codebooks) are not weights. Known names are
listed in :data:`FORMATS` and :data:`ALONE`, known modules in :data:`MODULES`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch import nn

from nbquant.tensorfile import FLOATS, StoredTensor

_TAIL = 4  # components of a name that patterns are compared with


@dataclass(frozen=True)
class PackedFormat:
    """Names that a library gives to the components of a quantized weight.

    In patterns, ``*`` matches any text without a dot, and ``{p}`` the parameter's own name, the same in all patterns.

    Attributes:
        library: The library, and the version it was seen in, or "as published" where its documentation is the source.
        codes: Name of the packed integers within the layer.
        parts: Names of the other components; never "bias".
        certain: Whether the name of the codes is unambiguous, so that neither parts nor an integer type are needed.
        proof: A part whose presence proves codes stored as floating-point numbers; "" if they never are.
    """

    library: str
    codes: str
    parts: tuple[str, ...]
    certain: bool = False
    proof: str = ""


FORMATS = (
    PackedFormat("HQQ 0.2.8.post1", "W_q", ("*",), certain=True),
    PackedFormat("optimum-quanto 0.2.7", "{p}._data", ("{p}._*", "input_scale", "output_scale"), certain=True),
    PackedFormat("optimum-quanto 0.2.7, int4", "{p}._data._data", ("{p}._*",), certain=True),
    PackedFormat(
        "torchao 0.18.0, flattened",
        "_{p}_qdata",
        (
            *("_{p}_scale", "_{p}_zero_point", "_{p}_scale_and_zero", "_{p}_per_tensor_scale"),
            *("_{p}_act_pre_scale", "_{p}_act_per_tensor_scale", "_{p}_act_quant_scale"),
        ),
        certain=True,
    ),
    PackedFormat("GPTQ, AWQ, GPTQModel, as published", "qweight", ("*",), certain=True),
    PackedFormat("compressed-tensors 0.20.1", "weight_packed", ("*",), certain=True),
    PackedFormat(
        "bitsandbytes 0.50.2",
        "{p}",
        ("{p}.absmax", "{p}.quant_map", "{p}.nested_absmax", "{p}.nested_quant_map", "{p}.quant_state.*"),
        proof="{p}.absmax",
    ),
    PackedFormat("AQLM, as published", "codes", ("codebooks", "scales")),
    PackedFormat(
        "VPTQ, as published",
        "indices",
        (
            *("centroids.weight", "res_centroids.weight", "outlier_centroids.weight", "res_indices"),
            *("outlier_indices", "weight_scale", "weight_bias", "perm", "invert_perm"),
        ),
        proof="centroids.weight",
    ),
    PackedFormat("EXL2, as published", "q_weight", ("q_*",), certain=True),
    PackedFormat("EXL3, as published", "trellis", ("suh", "svh", "su", "sv", "mcg", "mul1")),
    PackedFormat("QuIP#, as published", "Qidxs", ("SU", "SV", "Wscale", "codebook_id"), certain=True),
    PackedFormat("transformers 5.23.0: experts in MXFP4", "{p}_blocks", ("{p}_scales",)),
    PackedFormat(
        "transformers 5.23.0: fused experts in FP8",
        "{p}",
        ("{p}_scale*", "{p}_input_scale*", "{p}_activation_scale*", "{p}_zero_point*", "{p}_zeros"),
    ),
    PackedFormat("compressed-tensors 0.20.1: experts", "{p}_packed", ("{p}_scale*", "{p}_zero_point", "{p}_shape")),
    # FP8 of transformers 5.23.0, LLM.int8 of bitsandbytes 0.50.2, HIGGS, EETQ, BitNet, MLX, modelopt, as published.
    PackedFormat("any that keeps the usual name", "weight", ("*", "*_quantizer.*")),
)
"""One row per library and layout; the first match counts."""

_SCALES = ("scale", "scale_inv", "zero_point", "global_scale")
_SCALED = ("weight", "input", "output", "k", "v", "q", "prob", "kv", "k_cache", "v_cache")
ALONE = tuple(f"{what}_{scale}" for what in _SCALED for scale in _SCALES)
"""Names of scales without a packed weight: of activations, of a key/value cache (vllm 0.11,
compressed-tensors 0.20.1, optimum-quanto 0.2.7), and of weights prepared but not calibrated, where they are
NaN (compressed-tensors 0.20.1)."""

_CODES = ("F8_", "F6_", "F4")  # prefixes of types used by weights only …
_BYTES = ("I8", "U8")  # … and by weights of two axes or more, except masks
_MASKS = ("bias", "mask")
_NO_CODES = (*FLOATS, "I64", "U64")


@dataclass(frozen=True)
class PackedModules:
    """Modules of a library that hold quantized weights.

    Attributes:
        library: The library, and the version it was seen in.
        modules: Prefix of the Python modules that define the classes of modules or parameters.
        dequantize: How to get the weights of a layer in floating point.
    """

    library: str
    modules: str
    dequantize: str


MODULES = (
    PackedModules("torchao 0.18.0", "torchao.", "layer.weight.dequantize()"),
    PackedModules("optimum-quanto 0.2.7", "optimum.quanto.", "layer.weight.dequantize()"),
    PackedModules(
        "bitsandbytes 0.50.2",
        "bitsandbytes.",
        "bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)",
    ),
    PackedModules("HQQ 0.2.8.post1", "hqq.", "layer.dequantize()"),
    PackedModules("torch 2.13.0", "torch.ao.nn.quantized.", "layer.weight().dequantize()"),
    PackedModules("torch 2.13.0", "torch.ao.nn.intrinsic.quantized.", "layer.weight().dequantize()"),
)
"""One row per library, or package of it."""


@dataclass(frozen=True)
class PackedNames:
    """Names of the components of quantized weights in a checkpoint.

    Attributes:
        codes: Names of packed integers.
        parts: Names of the other components, with the name of their packed integers; "" for scales that stand alone.
    """

    codes: frozenset[str]
    parts: Mapping[str, str]

    @staticmethod
    def of(tensors: Mapping[str, StoredTensor]) -> "PackedNames":
        """Find the components by name, type and shape.

        Args:
            tensors: Header entries of all tensors.
        """
        codes = {name for name in tensors if _has_certain_name(name)}
        parts: dict[str, str] = {}
        for name in tensors:
            found = _codes_of(name, tensors)
            if found is not None:
                parts[name] = found
                codes.add(found)
        codes |= {name for name, stored in tensors.items() if name not in parts and _is_codes(name, stored)}
        for name, stored in tensors.items():
            layer, dot, last = name.rpartition(".")
            # A network may use these names for vectors of its own.
            prepared = stored.count <= 1 or codes or f"{layer}{dot}weight" in tensors
            if last in ALONE and name not in parts and prepared:
                parts[name] = ""
        return PackedNames(frozenset(codes - parts.keys()), parts)


def refuse_packed_modules(model: nn.Module, asked: set[str] | None) -> None:
    """Refuse layers whose weights another library has quantized.

    Args:
        model: The model.
        asked: Names of the parameters to be selected, of any type; None for all.

    Raises:
        ValueError: One of them is in such a module; names the library, and how to get the weights.
    """
    for name, module in model.named_modules(remove_duplicate=False):
        prefix = f"{name}." if name else ""
        own = {key: type(parameter) for key, parameter in module.named_parameters()}
        if asked is None or any(prefix + key in asked for key in own):
            direct = [kind for key, kind in own.items() if "." not in key and (asked is None or prefix + key in asked)]
            found = next(filter(None, map(_library_of, (type(module), *direct))), None)
            if found is not None:
                raise ValueError(
                    f"weights must be floating-point numbers, but those of module {name!r} ({type(module).__name__}) "
                    f"are quantized by {found.library.split()[0]}: select from the unquantized model, replace this "
                    f"layer by one with the weights that {found.dequantize} returns, or leave it out of layers."
                )


def _library_of(kind: type) -> PackedModules | None:
    return next((row for row in MODULES if kind.__module__.startswith(row.modules)), None)


def _is_codes(name: str, stored: StoredTensor) -> bool:
    last = name.rpartition(".")[2]
    in_bytes = stored.dtype in _BYTES and len(stored.shape) > 1 and not last.endswith(_MASKS)
    return last not in ALONE and (in_bytes or stored.dtype.startswith(_CODES))


def _has_certain_name(name: str) -> bool:
    tail = _split(name)[1]
    return any(row.certain and _pattern(row.codes).fullmatch(tail) for row in FORMATS)


def _codes_of(name: str, tensors: Mapping[str, StoredTensor]) -> str | None:
    """The packed integers to which a tensor belongs, by its name."""
    prefix, tail = _split(name)
    for codes, proof in _possible_codes(tail):
        found = tensors.get(prefix + codes)
        if found is not None and (found.dtype not in _NO_CODES or prefix + proof in tensors):
            return prefix + codes
    return None


def _split(name: str) -> tuple[str, str]:
    """A name in two parts. Patterns see only the second, which has few distinct values."""
    parts = name.split(".")
    tail = ".".join(parts[-_TAIL:])
    return name[: len(name) - len(tail)], tail


@lru_cache(maxsize=1 << 16)
def _possible_codes(tail: str) -> tuple[tuple[str, str], ...]:
    """Packed integers to which a tensor may belong, and the part required if they are floating-point numbers."""
    if tail.rpartition(".")[2] == "bias":
        return ()
    matches = ((row, _pattern(part).fullmatch(tail)) for row in FORMATS for part in row.parts)
    names = [(_filled(row.codes, m), _filled(row.codes if row.certain else row.proof, m)) for row, m in matches if m]
    return tuple(dict.fromkeys((codes, proof) for codes, proof in names if codes != tail))


def _filled(pattern: str, match: "re.Match[str]") -> str:
    """The name of another component of the same parameter; empty for an empty pattern."""
    return match["layer"] + pattern.replace("{p}", match.groupdict().get("p") or "") if pattern else " "


@lru_cache
def _pattern(pattern: str) -> "re.Pattern[str]":
    escaped = re.escape(pattern).replace(r"\{p\}", "(?P<p>[^.]+)").replace(r"\*", "[^.]*")
    return re.compile(rf"(?P<layer>(?:.+\.)?){escaped}")
