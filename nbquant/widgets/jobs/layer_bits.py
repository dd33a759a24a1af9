"""Bits of each layer in block formats, beside what they would be in its other formats."""

from collections.abc import Mapping
from dataclasses import dataclass

from nbquant.quantization.block_quantizer import BlockQuantizer, Choices, chosen_formats, known_choices
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Quantizer
from nbquant.quantization.selection import Selection


@dataclass(frozen=True)
class LayerBits:
    """Formats that a layer may have.

    Attributes:
        layer: Name of the layer.
        format: Its format.
        is_own: Whether that was set for the layer, or chosen.
        steps: Its formats, each with the bits it takes [bit/weight], from few to many.
    """

    layer: str
    format: str
    is_own: bool
    steps: tuple[tuple[str, float], ...]


def layer_bits(
    quantizer: Quantizer, selection: Selection, result: Quantized | None, own: Mapping[str, str]
) -> tuple[LayerBits, ...]:
    """Look up the bits of all layers; none if the quantizer has no block formats, or they are not known.

    Args:
        quantizer: The quantizer.
        selection: What it quantizes, with the sensitivities that it counts.
        result: What it gave; None if that is not there.
        own: Formats that are asked for by now, by layer, whatever the quantizer has.
    """
    if not isinstance(quantizer, BlockQuantizer):
        return ()
    choices = known_choices(quantizer, selection)
    if choices is None:
        return ()
    chosen = chosen_formats(quantizer, selection)
    books = {} if result is None else result.codebooks
    chosen |= {group: book.levels.format for group, book in books.items() if book.levels is not None}
    chosen |= {layer: name for layer, name in own.items() if name in choices.get(layer, {})}
    weights: dict[str, int] = {}
    for t in selection:
        weights[t.layer] = weights.get(t.layer, 0) + t.weight.numel()
    return tuple(
        LayerBits(layer, chosen[layer], layer in own, _steps(choices, layer, weights[layer])) for layer in choices
    )


def _steps(choices: Choices, layer: str, weights: int) -> tuple[tuple[str, float], ...]:
    rates = {name: choice.bits / weights for name, choice in choices[layer].items()}
    return tuple(sorted(rates.items(), key=lambda item: item[1]))
