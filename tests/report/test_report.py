"""The report of a run, its plots, and tables for the terminal."""

import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

import clearsight
from clearsight.errors import DivergedError, RunError
from clearsight.evaluation.metrics import Evaluation, evaluate_logits, evaluate_numbers
from clearsight.report import figure, plots, text, words
from clearsight.report import pictures as png
from clearsight.report.html import write_report
from clearsight.training import fit as fit_module

pytestmark = pytest.mark.report
HOSTILE = "<script>alert(1)</script>"
SECTIONS = (
    "What the doctor says", "Training, validation and test", "Worst mistakes (test)", "Confidence (test)", "Bias and variance",
    "Confusion matrix (test)", "Classes (test)", "Most confused pairs (test)", "Loss of every batch", "Accuracy of every epoch",
    "Signals through the layers", "Inside the network", "Weights of the first layer",
    "Weights over the epochs", "Learning rate", "Configuration", "Environment",
)  # fmt: skip
SVG = "{http://www.w3.org/2000/svg}"


def train(tmp_path, *data, **settings):
    """A small run's directory and its report."""
    run = clearsight.train(*data, out=tmp_path / "run", **({"epochs": 2, "hidden": (4,)} | settings))
    return run, (run.path / "report.html").read_text()


def named(pictures, *names):
    return pictures[0], np.array(names)[pictures[1]]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return train(tmp_path_factory.mktemp("digits"), "digits", weight_history=True)


class Tags(HTMLParser):
    """Checks that every tag is closed, and keeps the attributes that load something."""

    void = frozenset({"meta", "br", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attrs):
        self.open += [tag] * (tag not in self.void)
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_is_one_well_formed_file_that_loads_nothing(digits):
    _, html = digits
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.loads
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in tags.loads)
    assert not re.search(r"https?:|<script|@import|url\((?!#)", html)


def test_report_has_every_section_in_order(digits):
    run, html = digits
    assert tuple(re.findall("<h2>(.*?)</h2>", html)) == SECTIONS
    assert f"{100 * run.test.accuracy:.2f} %" in html
    assert "95 % confidence" in html
    assert f"{run.test.confusion.sum():,} test rows" in html


@pytest.mark.long
def test_report_is_written_again_with_the_same_bytes_and_without_the_data(digits, tmp_path):
    run, html = digits
    copy = shutil.copytree(run.path, tmp_path / "copy")
    (copy / "report.html").unlink()
    assert write_report(copy).read_text() == html
    assert (copy / "history.svg").read_bytes() == (run.path / "history.svg").read_bytes()


@pytest.mark.parametrize("name", ["config.toml", "steps.csv", "shown.safetensors", "metrics.json", "environment.json"])
def test_report_names_a_missing_file(digits, tmp_path, name):
    copy = shutil.copytree(digits[0].path, tmp_path / "copy")
    (copy / name).unlink()
    with pytest.raises(RunError, match=re.escape(name)):
        write_report(copy)


@pytest.mark.long
def test_report_escapes_hostile_class_names(pictures, tmp_path):
    _, html = train(tmp_path, *named(pictures, HOSTILE, r"$\frac \x1b[31m", '"a" & b'))
    assert HOSTILE not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "&#34;a&#34; &amp; b" in html


@pytest.mark.long
def test_diverged_run_says_so_on_top(tmp_path):
    with pytest.raises(DivergedError):
        train(tmp_path, "digits", optimizer="sgd", lr=1e30)
    html = (tmp_path / "run" / "report.html").read_text()
    assert html.index("Training diverged:") < html.index("<h1>")
    assert "the loss was not a finite number at step" in html


@pytest.mark.long
def test_regression_report_shows_errors_instead_of_accuracies(pictures, tmp_path):
    run, html = train(tmp_path, pictures[0], pictures[1] * 2.5, task="regression")
    assert "Confusion" not in html
    assert "Loss of every epoch" in html
    assert words.number(run.test.mae) in html


@pytest.mark.long
@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((60, 5), {"test_fraction": 0.0}),
        ((60, 4, 4, 3), {"valid_fraction": 0.0, "hidden": ()}),
        ((60, 4, 4), {"valid_fraction": 0.0, "test_fraction": 0.0, "epochs": 1, "mistakes": 0}),
    ],
)
def test_report_copes_with_what_a_run_does_not_have(tmp_path, shape, settings):
    images = np.random.default_rng(0).random(shape).astype(np.float32)
    run, html = train(tmp_path, images, np.arange(60) % 3, **settings)
    assert ("Weights of the first layer" in html) == (len(shape) > 2)
    assert ("No rows were held out" in html) == (run.valid is None and run.test is None)


@pytest.mark.long
def test_a_hundred_classes_get_a_confusion_matrix_without_counts():
    confusion = np.random.default_rng(0).integers(0, 9, (100, 100))
    few, many = (plots.draw_confusion(confusion[:k, :k], [f"class {i}" for i in range(k)]) for k in (20, 100))
    assert len(list(ElementTree.fromstring(few).iter(f"{SVG}text"))) == 42 + np.count_nonzero(confusion[:20, :20])
    assert len(list(ElementTree.fromstring(many).iter(f"{SVG}text"))) < 30


@pytest.mark.long
def test_every_plot_is_xml_and_small_for_a_long_training():
    rng = np.random.default_rng(0)
    names = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
    rows = [{"epoch": k, **dict(zip(names, rng.random(4), strict=True))} for k in range(1, 1001)]
    found = [
        plots.draw_losses(rng.random(100_000), steps_per_epoch=100, unit="nats"),
        plots.draw_epochs(rows, what="accuracy", unit="%", best=7),
        plots.draw_history(rows, unit="nats", best=7),
        plots.draw_learning_rate(np.full(100_000, 0.1), steps_per_epoch=100),
        plots.draw_weight_history([rng.random((1001, 300))] * 2, ["first", "second"]),
    ]
    for svg in found:
        assert ElementTree.fromstring(svg).tag == f"{SVG}svg"
        assert len(svg) < 500_000


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.draw_learning_rate(np.ones(3), steps_per_epoch=3)
    assert dict(matplotlib.rcParams) == before


def test_thinning_keeps_extremes_and_leaves_out_nan():
    values = np.random.default_rng(0).random(50_000)
    values[[777, 40_001]], values[5] = (9.0, -9.0), np.nan
    x, y = figure.thin(np.arange(50_000.0), values, buckets=100)
    assert len(y) <= 200
    assert (y.max(), y.min()) == (9.0, -9.0)
    assert {777.0, 40_001.0} <= set(x)
    assert (np.diff(x) > 0).all()


def test_running_mean_is_of_the_last_values():
    assert figure.running_mean(np.array([2.0, 4.0, 6.0, 8.0]), window=2).tolist() == [2, 3, 5, 7]


def test_weights_are_white_at_zero_and_coloured_alike_on_both_sides():
    from io import BytesIO

    from PIL import Image

    image = np.asarray(Image.open(BytesIO(png.draw_weights(np.array([[-2.0, 0.0, 2.0]]), limit=2.0))))
    assert image[0, 1].tolist() == [255, 255, 255]
    assert image[0, 0, 2] > image[0, 0, 0]
    assert image[0, 2, 0] > image[0, 2, 2]


@pytest.mark.parametrize(
    ("train_interval", "claim"),
    [((0.95, 0.97), "a sign of overfitting"), ((0.91, 0.95), "no gap shown"), ((0.5, 0.6), "are easier")],
)
def test_gap_is_claimed_only_where_intervals_do_not_overlap(train_interval, claim):
    test = {"accuracy": 0.92, "interval": [0.90, 0.94]}
    train = {"accuracy": sum(train_interval) / 2, "interval": list(train_interval)}
    assert claim in words.describe_gap({"train": train, "test": test}, "test")


def evaluation() -> Evaluation:
    labels = np.arange(300) % 3
    logits = np.eye(3)[np.where(np.arange(300) < 30, 0, labels)]
    return evaluate_logits(logits, labels, class_names=("cat", "a very long class name", "\x1b[31m"))


def test_evaluation_is_one_line_and_an_aligned_table():
    head, _, *table = text.render_evaluation(evaluation(), split="test", color=False).split("\n")
    assert head == "test accuracy 0.9333 (n = 300, 95 % interval 0.899 to 0.956), loss 0.6181"
    assert len({len(line) for line in table}) == 1
    assert "a very long…" in table[2]
    assert "\x1b" not in "".join(table)


def test_tables_of_classes_show_no_share_that_is_high_for_a_class_never_answered(digits):
    """Accuracy of one class against all others is 0.9 for a class of ten that is never answered."""
    _, html = digits
    table = text.render_evaluation(evaluation(), split="test", color=False).split("\n\n")[1]
    assert table.split("\n")[0].split() == ["class", "pictures", "precision", "recall", "f1"]
    header = re.search(r"<h2>Classes \(test\)</h2>.*?</thead>", html, re.DOTALL).group()
    assert re.findall("<th[^>]*>([^<]*)</th>", header) == ["class", "pictures", "precision", "recall", "F1"]


def test_confusion_is_aligned_and_shaded_only_in_colour():
    names = ("cat", "a very long class name", "\u732b")
    plain = text.render_confusion(evaluation().confusion, names, color=False)
    lines = plain.split("\n")[2:]
    assert lines[0].split() == ["cat", "100", ".", "."]
    assert len({len(line) + line.count("\u732b") for line in lines}) == 1
    shaded = text.render_confusion(evaluation().confusion, names, color=True)
    assert shaded.count("\x1b[48;5;") == 5
    assert re.sub(r"\x1b\[[\d;]*m", "", shaded) == plain


def test_many_classes_are_shown_as_their_most_confused_pairs():
    confusion = np.eye(30, dtype=np.int64) * 10
    confusion[4, 9], confusion[2, 3] = 7, 2
    shown = text.render_confusion(confusion, [str(k) for k in range(30)], color=False)
    assert shown == "4 taken for 9: 7 of 17\n2 taken for 3: 2 of 12"


def test_regression_is_one_line_with_its_error_and_r2():
    targets = np.arange(10.0)
    line = text.render_evaluation(evaluate_numbers(targets + 0.5, targets), split="test", color=True)
    assert line == "test mean absolute error 0.5 (n = 10), R2 0.9697, mean squared error 0.25"


@pytest.mark.parametrize(
    ("interval", "plain"),
    [
        ([None, None], "66 pictures are too few to compare stated confidence with accuracy."),
        ([0.0, 0.06], "With 66 pictures, no gap between stated confidence and accuracy can be shown."),
        ([0.02, 0.06], "Stated confidence differs from accuracy by more than chance explains."),
    ],
)
def test_confidence_is_said_in_a_plain_sentence_before_its_numbers(interval, plain):
    calibration = {"error": 0.124, "n": 66, "chance": 0.108, "interval": interval, "temperature": 1.2, "before": 0.2}
    said, numbers = text.render_calibration(calibration)
    assert said == plain
    assert numbers.startswith("Average gap 0.124, by chance alone 0.108 (n = 66")


@pytest.mark.long
def test_a_run_that_has_not_ended_shows_how_far_it_came(tmp_path, monkeypatch):
    def stop(engine, place, *arguments):
        row = real(engine, place, *arguments)
        if place.epoch == 2:
            raise KeyboardInterrupt
        return row

    real = fit_module._end_epoch
    monkeypatch.setattr(fit_module, "_end_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        clearsight.train("digits", epochs=8, hidden=(8,), out=tmp_path / "run")
    html = write_report(tmp_path / "run").read_text()
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert "This run has not ended: interrupted" in html
    assert re.search(r"It has done [0-9]+ of 328 steps, [0-9.]+ of 8 epochs", html)
    assert f"Go on with `clearsight train --resume {tmp_path / 'run'}`." in html
    assert "Accuracy of every epoch so far" in html
    monkeypatch.undo()
    clearsight.train(resume=tmp_path / "run")
    assert "has not ended" not in write_report(tmp_path / "run").read_text()


def test_a_run_that_never_trained_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("clearsight.actions.train.fit_prepared", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        clearsight.train("digits", epochs=1, out=tmp_path / "run")
    html = write_report(tmp_path / "run").read_text()
    assert "This run has not ended: failed" in html
    assert "It had not begun to train." in html
