import itertools

import pytest

from nbquant.quantization import methods
from nbquant.views.palette import method_style

METHODS = list(itertools.product(methods.names(), [False, True]))


def test_no_two_methods_look_alike():
    styles = [method_style(m, w) for m, w in METHODS]
    assert len({s.label for s in styles}) == len({(s.colour, s.dash) for s in styles}) == len(METHODS)


def test_weighting_changes_the_dash_but_not_the_colour():
    for method in methods.names():
        plain, weighted = method_style(method, False), method_style(method, True)
        assert plain.colour == weighted.colour
        assert (plain.dash, weighted.dash) == ("dash", "solid")


def test_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="ecsq, trellis, feedback, blocks, but got 'kmean'"):
        method_style("kmean", True)
