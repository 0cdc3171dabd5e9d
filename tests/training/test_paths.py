"""Paths of optimisers on surfaces with a known minimum, and their pictures."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from clearsight.engines.objective import DENSE_OPTIMIZERS
from clearsight.errors import UsageError
from clearsight.report.optimizer_paths import draw_paths, render_animation
from clearsight.training.optimizer_paths import SURFACES, find_best_path, trace_path


@pytest.mark.parametrize("name", SURFACES)
def test_slopes_are_those_of_the_heights_and_vanish_at_the_minimum(name):
    surface, h = SURFACES[name], 1e-6
    for point in np.random.default_rng(0).uniform(-1.5, 1.5, (20, 2)):
        for axis in range(2):
            step = np.eye(2)[axis] * h
            rise = (surface.value(*(point + step)) - surface.value(*(point - step))) / (2 * h)
            assert surface.slope(point)[axis] == pytest.approx(float(rise), rel=1e-5, abs=1e-5)
    assert surface.value(*np.array(surface.minimum)) == pytest.approx(0, abs=1e-12)
    assert np.abs(surface.slope(np.array(surface.minimum))).max() < 1e-9
    left, right, low, high = surface.window
    for x, y in (surface.start, surface.minimum):
        assert left < x < right
        assert low < y < high


@pytest.mark.long
@pytest.mark.parametrize("optimizer", DENSE_OPTIMIZERS)
def test_every_optimizer_finds_the_bottom_of_the_valley(optimizer):
    path = find_best_path(optimizer, SURFACES["valley"], steps=80)
    assert path.points.shape == (81, 2)
    assert path.heights[-1] < 0.01 * path.heights[0]
    assert not path.diverged


def test_plain_sgd_goes_by_the_formula():
    path = trace_path("sgd", SURFACES["valley"], lr=0.01, steps=3)
    expected = np.array(SURFACES["valley"].start) * np.array([0.99, 0.8]) ** np.arange(4)[:, None]
    np.testing.assert_allclose(path.points, expected, rtol=1e-12)


def test_momentum_goes_by_the_formula():
    path = trace_path("momentum", SURFACES["valley"], lr=0.01, steps=2)
    x0 = np.array(SURFACES["valley"].start)
    v1 = np.array([1, 20]) * x0
    x1 = x0 - 0.01 * v1
    v2 = 0.9 * v1 + np.array([1, 20]) * x1
    np.testing.assert_allclose(path.points[1:], [x1, x1 - 0.01 * v2], rtol=1e-12)


def test_a_path_that_flies_away_stays_where_it_was():
    path = trace_path("sgd", SURFACES["valley"], lr=1.0, steps=50)
    assert path.diverged
    assert np.isfinite(path.points).all()
    assert np.abs(path.points).max() < 1e6


@pytest.mark.parametrize("name", ["muon", "sgdm"])
def test_what_is_no_optimizer_of_points_is_refused(name):
    with pytest.raises(
        UsageError, match=r"^optimizers must be among sgd, .* \(muon moves matrices, not points\), got "
    ):
        trace_path(name, SURFACES["valley"], lr=0.1, steps=1)


@pytest.mark.long
def test_picture_and_animation_hold_all_paths():
    surface = SURFACES["beale"]
    paths = [find_best_path(name, surface, steps=30) for name in ("sgd", "momentum", "adam")]
    svg = draw_paths(surface, paths)
    for word in ("sgd", "momentum", "adam", "minimum", "step"):
        assert word in svg
    assert "mathdefault" not in svg  # labels of a log scale are plain numbers
    film = Image.open(io.BytesIO(render_animation(surface, paths)))
    assert film.n_frames == 31
    assert film.info["loop"] == 0
    first, last = (np.asarray(film.convert("RGB")) if film.seek(k) is None else None for k in (0, 30))
    assert (first != last).any(axis=2).mean() > 0.002  # the paths have grown


@pytest.mark.long
def test_the_command_writes_both_and_tells_where_each_ends(tmp_path, call, capsys):
    assert (
        call(
            "optimizers",
            "sgd=0.05",
            "adam",
            "--steps",
            "20",
            "--out",
            tmp_path / "o.svg",
            "--animation",
            tmp_path / "o.gif",
            "--json",
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert [row["optimizer"] for row in found["paths"]] == ["sgd", "adam"]
    assert found["paths"][0]["lr"] == 0.05
    assert (tmp_path / "o.svg").read_text().startswith("<svg")
    with Image.open(tmp_path / "o.gif") as film:
        assert film.n_frames > 5
    assert call("optimizers", "--out", tmp_path / "p.svg") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[:3]] == ["sgd", "momentum", "adam"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--surface", "hill"], "--surface must be one of valley, beale, rosenbrock, got 'hill'."),
        (["adam=fast"], "NAMES must be NAME or NAME=LR, got 'adam=fast'. For example adam=0.1."),
        (["adam=-1"], "lr of adam must be a number above 0, got -1. For example adam=0.1."),
        (["adam=nan"], "lr of adam must be a number above 0, got nan."),
        (["speed"], "optimizers must be among sgd,"),
    ],
)
def test_wrong_words_are_refused(arguments, message, call, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("optimizers", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
