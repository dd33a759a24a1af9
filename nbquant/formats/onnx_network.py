"""Fields of an ONNX model to be copied into another."""

from collections.abc import Collection
from functools import partial

from nbquant.formats.onnx_model import GRAPH, INITIALIZER, INPUT_OF_GRAPH, OPSETS, OnnxModel
from nbquant.formats.onnx_writer import Part
from nbquant.formats.protobuf import BYTES, Field, Message, varint

_NAME_OF_INPUT, _NAME_OF_TENSOR = 1, 8


def opset_of(model: OnnxModel) -> int:
    """Read the version of ONNX's own operators; 0 if there is none."""
    for entry in model.message.fields():
        if entry.number == OPSETS:
            inner = model.message.part(entry)
            fields = list(inner.fields())
            domain = "".join(inner.text(f) for f in fields if f.number == 1)
            if domain in ("", "ai.onnx"):
                return max((f.value for f in fields if f.number == 2), default=0)
    return 0


def fields_of(model: OnnxModel, leave_out: Collection[str]) -> tuple[bytes, list[Part]]:
    """Copy the fields of a model, and those of its graph other than constants.

    Args:
        model: The model.
        leave_out: Inputs of the graph to leave out, such as weights that are inputs and constants too.
    """
    head, graph = b"", list[Part]()
    for entry in model.message.fields():
        if entry.number != GRAPH:
            head += _raw(model.message, entry)
            continue
        inner = model.message.part(entry)
        for each in inner.fields():
            if each.number == INITIALIZER and inner.part(each).text_of(_NAME_OF_TENSOR) in model.initializers:
                continue  # not texts, which are copied
            if each.number == INPUT_OF_GRAPH and inner.part(each).text_of(_NAME_OF_INPUT) in leave_out:
                continue
            graph.append(Part(len(_raw(inner, each)), partial(_pieces, inner, each)))
    return head, graph


def _pieces(message: Message, entry: Field) -> list[bytes]:
    return [_raw(message, entry)]


def _raw(message: Message, entry: Field) -> bytes:
    """Bytes of a field, with its tag."""
    content = message.data[entry.start : entry.end]
    tag = varint(entry.number << 3 | entry.kind)
    return tag + (varint(len(content)) if entry.kind == BYTES else b"") + content
