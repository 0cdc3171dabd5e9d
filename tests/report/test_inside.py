"""The picture of the network over its training: well-formed, small, and honest about what is missing."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from clearsight.engines.probe import LayerProbe, Probe
from clearsight.report.inside import _shorten, draw_inside, render_inside


def probe(layers=2, **changes):
    usual = {
        "name": "layer", "units": 4, "mean": 0.1, "std": 1.0, "low": -3.0, "high": 3.0, "counts": (1,) * 41, "spread": 1.0,
        "silent": 0.0, "x_mean": 0.0, "x_std": 1.0, "x_limit": 0.0, "rank": 3.0, "weight": 1.0, "gradient": 0.1, "update": 1e-3,
    }  # fmt: skip
    found = tuple(LayerProbe(**(usual | {"name": f"layer {k}"} | changes)) for k in range(layers))
    return Probe(256, 1.0, 0.5, (1, 1), None, None, 1.0, None, found)


def test_a_column_a_layer_six_at_most_and_the_last_among_them():
    svg = draw_inside([(0, probe(20)), (1, probe(20)), (400, probe(20))])
    ElementTree.fromstring(svg)
    assert svg.count(">layer ") == 6
    assert ">layer 0<" in svg
    assert ">layer 19<" in svg
    assert len(svg) < 200_000


def test_layers_that_are_not_finite_and_trainings_without_trial_steps_are_drawn():
    odd = probe(mean=None, std=None, low=None, high=None, counts=(), spread=float("nan"), update=None)
    svg = draw_inside([(0, odd), (1, odd), (4, odd)])
    ElementTree.fromstring(svg)
    assert svg.count("no step") == 2
    ElementTree.fromstring(draw_inside([(0, probe(update=np.inf)), (1, probe(update=0.0)), (4, probe())]))


def test_few_looks_make_no_section_and_more_make_one_that_says_what_it_shows():
    assert render_inside([]) == render_inside([(0, probe()), (1, probe())]) == ""
    assert render_inside([(k, replace(probe(), layers=())) for k in range(5)]) == ""
    text = render_inside([(k, probe()) for k in (0, 1, 4)])
    assert "3 looks at the same 256 training rows." in text


@pytest.mark.parametrize(("number", "shown"), [(0, "0"), (100, "100"), (1000, "1k"), (100_000, "100k"), (1e6, "1M")])
def test_large_numbers_are_short(number, shown):
    assert _shorten(number) == shown
