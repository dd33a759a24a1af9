"""Live picture: the bits of a number in float32, bfloat16, float16 and FP8."""

import math
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nbquant.course.live import Live, choice, slider
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import BLUE, GREEN, VERMILION


@dataclass(frozen=True)
class FloatFormat:
    """A floating-point format.

    Attributes:
        name: Name.
        dtype: Type in torch.
        integer: Integer type of as many bits.
        exponent_bits: Bits of the exponent.
        mantissa_bits: Bits of the mantissa.
    """

    name: str
    dtype: torch.dtype
    integer: torch.dtype
    exponent_bits: int
    mantissa_bits: int

    @property
    def bits(self) -> int:
        """All bits, with the sign."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is subtracted from the stored exponent."""
        return (1 << (self.exponent_bits - 1)) - 1


FORMATS = (
    FloatFormat("float32", torch.float32, torch.int32, 8, 23),
    FloatFormat("bfloat16", torch.bfloat16, torch.int16, 8, 7),
    FloatFormat("float16", torch.float16, torch.int16, 5, 10),
    FloatFormat("FP8 E4M3", torch.float8_e4m3fn, torch.uint8, 4, 3),
)


@dataclass(frozen=True)
class Stored:
    """A number as a format stores it.

    Attributes:
        form: The format.
        sign: The sign's bit.
        exponent: The exponent's bits, as an integer.
        mantissa: The mantissa's bits, as an integer.
        value: The number that these bits stand for.
        error: Relative error; infinite where the number is too large.
    """

    form: FloatFormat
    sign: int
    exponent: int
    mantissa: int
    value: float
    error: float

    @property
    def text(self) -> str:
        """All bits: sign, exponent, mantissa."""
        return f"{self.sign:b}{self.exponent:0{self.form.exponent_bits}b}{self.mantissa:0{self.form.mantissa_bits}b}"

    @property
    def formula(self) -> str:
        """How the fields make the value."""
        sign = "−" if self.sign else ""
        fraction = f"{self.mantissa}/{1 << self.form.mantissa_bits}"
        if not math.isfinite(self.value):
            return "all bits of the exponent are 1: infinite"
        if self.exponent == 0:
            if self.mantissa == 0:
                return "zero"
            return f"{sign}2^{_power(1 - self.form.bias)} · {fraction}  (subnormal)"
        return f"{sign}2^({self.exponent} − {self.form.bias}) · (1 + {fraction})"


@dataclass(frozen=True)
class FloatBitsData:
    """A number in all formats.

    Attributes:
        number: The number.
        stored: What each format makes of it.
    """

    number: float
    stored: tuple[Stored, ...]

    @property
    def summary(self) -> str:
        """Values, in a sentence."""
        found = "; ".join(f"{each.form.name} {each.value:.8g} ({_error(each.error)})" for each in self.stored)
        return f"{self.number:.8g} is stored as: {found}."


def float_bits_data(number: float) -> FloatBitsData:
    """Round a number to each format, and split its bits into fields.

    Args:
        number: A finite number.
    """
    return FloatBitsData(number, tuple(_stored(number, form) for form in FORMATS))


def _stored(number: float, form: FloatFormat) -> Stored:
    rounded = torch.tensor([number], dtype=torch.float64).to(form.dtype)
    bits = int(rounded.view(form.integer).long()) & ((1 << form.bits) - 1)
    value = float(rounded.double())
    return Stored(
        form,
        sign=bits >> (form.bits - 1),
        exponent=bits >> form.mantissa_bits & ((1 << form.exponent_bits) - 1),
        mantissa=bits & ((1 << form.mantissa_bits) - 1),
        value=value,
        error=abs(value - number) / abs(number) if number else abs(value),
    )


def draw_float_bits(data: FloatBitsData) -> Figure:
    """Draw a row of bits for each format, coloured by field."""
    figure = NotebookFigure(figsize=(9.2, 3.9), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for row, each in enumerate(data.stored):
        top = -2.1 * row
        widths = (1, each.form.exponent_bits, each.form.mantissa_bits)
        colours = [colour for colour, width in zip((VERMILION, GREEN, BLUE), widths, strict=True) for _ in range(width)]
        for place, (bit, colour) in enumerate(zip(each.text, colours, strict=True)):
            on = bit == "1"
            axes.add_patch(Rectangle((place, top), 0.92, 1, facecolor=colour, alpha=0.85 if on else 0.18, lw=0))
            axes.text(place + 0.46, top + 0.47, bit, ha="center", va="center", fontsize=9, color="white" if on else "k")
        axes.text(-0.5, top + 0.5, each.form.name, ha="right", va="center", fontsize=10, weight="bold")
        axes.text(0, top - 0.12, each.formula, ha="left", va="top", fontsize=8.5, color="#444444")
        axes.text(32.7, top + 0.5, f"{each.value:.8g}", ha="left", va="center", fontsize=10)
        axes.text(32.7, top - 0.12, _error(each.error), ha="left", va="top", fontsize=8.5, color="#444444")
    for left, name, colour in ((0, "sign", VERMILION), (2.6, "exponent", GREEN), (7.6, "mantissa", BLUE)):
        axes.text(left, 1.35, name, color=colour, fontsize=10, weight="bold")
    axes.text(32.7, 1.35, "value", fontsize=10, weight="bold")
    axes.set_title(f"{data.number:.8g}, rounded to each format", loc="left", fontsize=11, weight="bold")
    axes.set(xlim=(-5.2, 40), ylim=(-7.4, 2.2))
    axes.axis("off")
    return figure


def _error(error: float) -> str:
    if error == 0:
        return "exact"
    if math.isinf(error):
        return "too large"
    return f"off by {100 * error:.2g} %" if error < 0.1 else f"off by {100 * error:.0f} %"


def _power(exponent: int) -> str:
    return str(exponent).replace("-", "−")


def show(fraction: float = 1.1, power: int = 0) -> Live:
    """Show the bits of ± fraction · 2^power, with sliders.

    Args:
        fraction: First fraction, from 1.00 to 1.99 in hundredths.
        power: First power of two, from −20 to 20.
    """
    fractions = [round(1 + i / 100, 2) for i in range(100)]
    return Live(
        lambda fraction, power, sign: float_bits_data(sign * math.ldexp(fraction, power)),
        draw_float_bits,
        {
            "fraction": slider("fraction", fractions, fraction, lambda value: f"{value:.2f}"),
            "power": slider("power of two", range(-20, 21), power, lambda value: f"2^{_power(value)}"),
            "sign": choice("sign", [("+", 1), ("−", -1)], 1),
        },
    )
