"""How objects look in a notebook: well-formed HTML with the numbers that matter, whatever names they hold."""

import numpy as np
import pytest

import clearsight

HOSTILE = '<script>alert(1)</script>&"'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 6)).astype(np.uint8)
    labels = np.array(["a", "b", HOSTILE])[np.arange(60) % 3]
    return clearsight.train(images, labels, epochs=1, hidden=(5,), root=tmp_path_factory.mktemp("runs"))


def test_a_data_set_shows_a_picture_of_each_class():
    data = clearsight.load_data("digits")
    html = data._repr_html_()
    assert html.count("<img ") == 10
    assert html.count("data:image/png;base64,") == 10
    assert "Dataset(digits: 1,797 pictures of 8x8x1, 10 classes)" in html
    assert "<figcaption>0 (178)</figcaption>" in html


def test_rows_of_numbers_show_no_pictures():
    data = clearsight.load_data(np.zeros((4, 3)), np.array([0.5, 1, 2, 3]), task="regression")
    assert "<img" not in data._repr_html_()
    assert "<img" not in clearsight.load_data(np.zeros((4, 3)), np.arange(4) % 2)._repr_html_()


def test_runs_models_and_evaluations_show_what_counts(run):
    for shown in (run, run.bundle, run.test, run.train):
        html = shown._repr_html_()
        assert "<script" not in html
        assert "<table>" in html
    assert f"{run.test.accuracy:.2%} (95 % interval {run.test.low:.2%} to {run.test.high:.2%})" in run._repr_html_()
    assert f"{run.test.n:,}" in run.test._repr_html_()
    assert "&lt;script&gt;" in run.bundle._repr_html_()
    assert run.path.name in run._repr_html_()
