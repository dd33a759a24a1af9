"""Names of methods, codes, estimators and panels are compared in no room but their own."""

import re
from pathlib import Path

import pytest

from nbquant.coding import codes
from nbquant.quantization import methods
from nbquant.sensitivity import estimators
from nbquant.widgets.panels import panels

PACKAGE = Path(__file__).parent.parent / "nbquant"
NAMES = {
    *methods.names(),
    *codes.names(),
    *(code.stored for code in codes.CODES),
    *estimators.names(),
    *(panel.name for panel in panels.PANELS),
} - {"exact", "error", "heatmap"}  # words of other rooms, too
QUOTED = rf"[\"'](?:{'|'.join(sorted(NAMES))})[\"']"
COMPARED = re.compile(rf"(?:[=!]==?|\bin \(?|\bis )\s*{QUOTED}|{QUOTED}\s*(?:[=!]==?|\bin\b)|case {QUOTED}")
GONE = re.compile(r"\bRUNNERS\b|\bMEASURED\b|cast\(Quantizer|isinstance\([^)]*(?:KMeans|Uniform|ECSQ|Trellis|Feedback)")


def sources():
    for suffix in ("*.py", "*.js"):
        for path in sorted(PACKAGE.rglob(suffix)):
            if "plotly" not in path.parts:
                yield path


def found(pattern):
    return [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


def test_names_are_compared_in_no_other_room():
    assert found(COMPARED) == []


def test_lists_of_some_methods_are_gone():
    assert found(GONE) == []


@pytest.mark.parametrize("line", ['if method == "kmeans":', 'x in ("context", "fixed")', 'figure !== "histogram"'])
def test_the_pattern_finds_a_comparison(line):
    assert COMPARED.search(line)
