"""What a run says to try next: each case beyond chance alone, and never a command that would be refused."""

import itertools
import json
import shlex
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import clearsight
from clearsight.config.build import build_config
from clearsight.config.files import merge, parse_setting
from clearsight.config.rules import check_used
from clearsight.diagnose.next_step import Ended, find_next_step
from clearsight.errors import UsageError
from clearsight.pipeline.choice import resolve_family
from clearsight.pipeline.finish import _accepts, _write_reading

GOOD = Ended(
    "finished", "test", 970, 1000, 4000, 4000, 0.1, epochs=20, lr=0.001, hidden=(128,), data="photos", run="runs/a"
)
FLAT = (1.0, 0.5, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3)


def step(accepts=lambda settings: True, **changes):
    return find_next_step(replace(GOOD, **changes), accepts=accepts)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "mistakes"),
        ({"hits": 1000}, "use"),
        ({"data": ""}, "report"),
        ({"status": "diverged", "hits": 100}, "diverged"),
        # chance: the interval of 100 in 1,000 begins at 0.083, that of 130 at 0.111
        ({"hits": 100, "train_hits": 400}, "chance"),
        ({"hits": 115, "train_hits": 460}, "chance"),
        ({"hits": 130, "train_hits": 520}, "underfitting"),
        ({"hits": 100, "train_hits": 3000}, "labels"),
        # 8 of 10 where the largest class has half: too few to show anything, and not a failure either
        ({"hits": 8, "n": 10, "majority": 0.5, "train_hits": 90, "train_n": 100}, "interval"),
        ({"hits": 6, "n": 10, "majority": 0.6, "train_hits": 60, "train_n": 100}, "chance"),
        # overfitting: five points, and more than chance in n
        ({"hits": 940}, "overfitting"),
        ({"hits": 960}, "mistakes"),
        ({"hits": 94, "n": 100, "train_hits": 95, "train_n": 95}, "mistakes"),
        ({"hits": 70, "n": 100, "train_hits": 95, "train_n": 95}, "overfitting"),
        ({"hits": 9, "n": 10, "train_hits": 95, "train_n": 95}, "interval"),
        ({"hits": 9, "n": 10, "train_hits": 3800}, "mistakes"),
        # underfitting
        ({"hits": 800, "train_hits": 3300}, "underfitting"),
        ({"hits": 880, "train_hits": 3570}, "mistakes"),
        # still improving: by more than 1 / sqrt(n)
        (
            {"hits": 900, "train_hits": 3600, "valid_losses": (1, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2), "valid_n": 500},
            "longer",
        ),
        (
            {"hits": 900, "train_hits": 3600, "valid_losses": (1, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2), "valid_n": 4},
            "mistakes",
        ),
        ({"hits": 900, "train_hits": 3600, "valid_losses": FLAT, "valid_n": 500}, "mistakes"),
        ({"hits": 995, "valid_losses": (1, 0.5, 0.2, 0.1), "valid_n": 500}, "mistakes"),
        (
            {
                "status": "stopped early",
                "hits": 900,
                "train_hits": 3600,
                "valid_losses": (4.0, 2.0, 1.0, 0.5),
                "valid_n": 500,
            },
            "mistakes",
        ),
        # photographs
        ({"photographs": "200 colour pictures", "hits": 500, "majority": 0.5}, "pretrained"),
        ({"photographs": "200 colour pictures", "hits": 950}, "pretrained"),
        ({"photographs": "200 colour pictures", "hits": 995}, "mistakes"),
        ({"photographs": "200 colour pictures", "hits": 995, "weights_here": False}, "pretrained"),
        ({"photographs": "200 colour pictures", "hits": 500, "data": ""}, "overfitting"),
        # numbers: R2 of nothing learnt scatters by 2 / sqrt(n)
        ({"r2": 0.05}, "chance"),
        ({"r2": 0.07}, "report"),
        ({"r2": 0.5, "valid_losses": (4.0, 2.0, 1.0, 0.5), "valid_n": 500}, "longer"),
    ],
    ids=str,
)
def test_each_case_has_its_threshold(changes, kind):
    assert step(**changes).kind == kind


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "`clearsight mistakes runs/a` shows what it gets wrong."),
        ({"hits": 1000}, "Use it on new pictures, with `clearsight predict runs/a PICTURE`."),
        (
            {"status": "diverged"},
            "The loss diverged. Train with a lower learning rate, such as --lr 0.0001, or look for one with `clearsight lr-find photos "
            "--config runs/a/config.toml`.",
        ),
        (
            {"photographs": "200 colour pictures of 9 sizes, 100 a class", "hits": 520, "majority": 0.5},
            "A test accuracy of 0.52 (n = 1,000) is not shown to beat naming the largest class (0.50). These are 200 colour pictures "
            "of 9 sizes, 100 a class, where a pretrained network does better: `clearsight train photos --pretrained`.",
        ),
        (
            {"hits": 37, "n": 39, "train_hits": 144, "train_n": 145},
            "The test accuracy of 0.95 rests on 39 pictures and could as well be 0.83 or 0.99. `clearsight cv --config "
            "runs/a/config.toml` judges on all of them.",
        ),
        (
            {"hits": 700, "colour": True},
            "A training accuracy of 1.00 is far above a test accuracy of 0.70. Vary the pictures: `clearsight data safety photos` shows "
            "what is safe, then add --augment photo.",
        ),
        ({"hits": 700, "varied": True}, "A training accuracy of 1.00 is far above a test accuracy of 0.70. Regularise, with --dropout 0.3."),
        (
            {"hits": 700, "varied": True, "dropout": 0.2},
            "A training accuracy of 1.00 is far above a test accuracy of 0.70. `clearsight learning-curve photos --config "
            "runs/a/config.toml` shows whether more pictures would help.",
        ),
        (
            {"hits": 700, "train_hits": 2800},
            "A training accuracy of 0.70 leaves room. Take a larger network, with --hidden 256.",
        ),
        (
            {"hits": 700, "train_hits": 2800, "hidden": (), "head": True},
            "A training accuracy of 0.70 leaves room. Train more of the network, with --finetune last.",
        ),
        ({"hits": 700, "train_hits": 2800, "hidden": ()}, "A training accuracy of 0.70 leaves room. Train longer, with --epochs 40."),
    ],
    ids=str,
)  # fmt: skip
def test_steps_are_sentences_with_numbers_and_a_command(changes, text):
    assert step(**changes).text == text


CONFIGS = [
    {}, {"model": {"hidden": []}}, {"train": {"engine": "reference"}}, {"model": {"family": "cnn"}},
    {"model": {"family": "resnet18", "pretrained": True}}, {"model": {"family": "timm:vit_tiny", "pretrained": True}, "preprocess": {"scale": "imagenet"}},
    {"model": {"family": "resnet18", "pretrained": True, "finetune": "last"}}, {"model": {"family": "speednet"}},
    {"data": {"folds": 4}}, {"data": {"train_per_class": 5}}, {"data": {"valid_fraction": 0.2}}, {"train": {"dropout": 0.5}},
]  # fmt: skip


@pytest.mark.parametrize("values", CONFIGS, ids=str)
def test_no_recommended_setting_is_refused(values, monkeypatch):
    monkeypatch.setattr("clearsight.config.build.describe_pictures", lambda family: {"image_size": 224})
    config = build_config(values)
    numbers = itertools.product((1000, 700, 100), (4000, 2800), ((), (4.0, 2.0, 1.0, 0.5)), (False, True))
    for hits, train_hits, losses, varied in numbers:
        ended = replace(
            GOOD, hits=hits, train_hits=train_hits, valid_losses=losses, valid_n=500, varied=varied, dropout=config.train.dropout,
            hidden=config.hidden if config.family == "mlp" else (), head=config.model.pretrained and config.depth == "head",
        )  # fmt: skip
        for one in (
            ended,
            replace(ended, n=hits // 10 + 2, hits=hits // 10, train_n=hits // 10 + 2, train_hits=hits // 10),
        ):
            found = find_next_step(one, accepts=partial(_accepts, config))
            check_used(build_config(merge(config.model_dump(exclude_unset=True), found.settings)))


def test_what_the_run_would_refuse_is_passed_over():
    def refuses(*sections):
        return lambda settings: not set(settings) & set(sections)

    assert "--dropout" in step(refuses("augment"), hits=700).text
    assert "learning-curve" in step(refuses("augment", "train"), hits=700).text
    assert "--epochs 40" in step(refuses("model"), hits=700, train_hits=2800).text
    assert "--model" in step(refuses("model", "train"), hits=700, train_hits=2800).text
    assert step(refuses("data"), hits=9, n=10, train_hits=95, train_n=95).kind == "mistakes"


def test_the_pretrained_command_begins_as_it_stands():
    check_used(resolve_family(build_config({"model": {"pretrained": True}})))
    with pytest.raises(
        UsageError, match="preset must go with finetune all"
    ):  # which is why the command has no more flags
        check_used(build_config({"model": {"pretrained": True}, "augment": {"preset": "photo"}}))


@pytest.mark.long
@pytest.mark.report
def test_train_ends_with_its_next_step_everywhere(tmp_path, call, capsys):
    flags = ["train", "digits", "--epochs", 1, "--hidden", "16"]
    assert call(*flags, "--out", tmp_path / "a") == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("next    ")
    assert call(*flags, "--out", tmp_path / "b", "--json") == 0
    said = json.loads(capsys.readouterr().out)["next_step"]
    assert f"next    {said}" == last
    assert json.loads((tmp_path / "b" / "metrics.json").read_text())["next_step"] == said
    assert f"Next step: {said}" in (tmp_path / "b" / "report.html").read_text()


def test_a_run_from_arrays_names_no_command_that_could_not_read_them(tmp_path, pictures):
    run = clearsight.train(np.asarray(pictures[0]), pictures[1], epochs=1, out=tmp_path / "run")
    assert run.next_step
    assert "clearsight " not in run.next_step


@pytest.mark.parametrize(
    "changes",
    [
        {"photographs": "40 colour pictures", "hits": 900},
        {"hits": 100, "train_hits": 3000},
        {"hits": 700},
    ],
)
def test_commands_without_the_settings_of_the_run_read_its_data_alike(changes):
    read = build_config({"data": {"follow_links": True, "max_megapixels": 100.0, "relabel": "my table.csv"}})
    assert "`clearsight " in step(reading=_write_reading(read), **changes).text
    command = shlex.split(step(reading=_write_reading(read), **changes).text.split("`")[1])
    given = [pair for flag, pair in itertools.pairwise(command) if flag == "--set"]
    assert build_config(merge(*map(parse_setting, given))).data == read.data
    assert _write_reading(build_config({})) == ""
