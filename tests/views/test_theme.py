import json
import re

import plotly.graph_objects as go
import plotly.io as pio

from nbquant.views import theme


def test_figure_carries_no_template_and_changes_no_default():
    before = pio.templates.default
    figure = go.Figure(theme.figure("Title", "subtitle", [{"type": "scatter", "x": [1]}], xaxis=theme.axis("weight")))
    assert pio.templates.default == before
    assert not figure.to_plotly_json()["layout"]["template"].get("layout")
    assert len(figure.to_json()) < 3000


def test_every_neutral_colour_in_a_figure_has_a_role():
    text = json.dumps(theme.figure("Title", "subtitle", [], xaxis=theme.axis("weight")))
    used = set(re.findall(r'"(#[0-9a-f]{6}|rgba\([^"]*\))"', text)) - {"rgba(0,0,0,0)"}
    assert used == set(theme.ROLES)


def test_settings_given_replace_the_common_ones():
    assert theme.axis("weight", showgrid=False, ticks="")["ticks"] == ""
    assert theme.figure("Title", "", [], hovermode="x")["layout"]["hovermode"] == "x"
