"""Folds: disjoint, complete, stratified, groups and copies kept together, the test split left alone; and cross-validation."""

import json
import shutil
import tomllib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_trees import make, many
from safetensors.numpy import load_file

import clearsight
from clearsight.actions import cross_validate as cv
from clearsight.actions.cross_validate import cross_validate
from clearsight.config.build import build_config
from clearsight.core.intervals import mean_interval
from clearsight.core.progress import SilentMeter
from clearsight.data.read.load import load_data
from clearsight.data.split import find_bound, fold_training, split_data
from clearsight.errors import DataError, UsageError
from clearsight.pipeline.data import build_split, load_dataset
from clearsight.search import executors


def dataset(labels, images=None):
    labels = np.asarray(labels)
    images = np.arange(len(labels) * 16, dtype=np.uint16).reshape(-1, 4, 4) if images is None else images
    return load_data(images, labels)


@pytest.mark.long
@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(5, 20), min_size=2, max_size=5), st.integers(2, 5), st.integers(0, 99))
def test_folds_part_the_rows_and_keep_classes_balanced(counts, folds, seed):
    data = dataset(np.repeat(np.arange(len(counts)), counts))
    split = split_data(data, valid_fraction=0.3, test_fraction=0)
    parts = [fold_training(split, data, folds=folds, fold=f, seeds=(0, seed)) for f in range(folds)]
    assert sorted(np.concatenate([part.valid for part in parts])) == sorted(range(len(data)))
    for part in parts:
        assert not set(part.train) & set(part.valid)
        for k, count in enumerate(counts):
            assert abs((data.labels[part.valid] == k).sum() - count / folds) < 1


def test_the_test_split_is_in_no_fold():
    data = load_data("digits")
    plain = build_split(build_config({}), data)
    for seed in range(2):
        found = build_split(build_config({"data": {"folds": 5, "fold": 2, "fold_seed": seed}}), data)
        assert (found.test == plain.test).all()
        assert not set(found.test) & (set(found.train) | set(found.valid))
        assert sorted([*found.train, *found.valid]) == sorted([*plain.train, *plain.valid])


def test_other_fold_seeds_draw_other_folds_and_equal_ones_the_same():
    data = load_data("digits")
    a, b, c = (build_split(build_config({"data": {"folds": 5, "fold_seed": s}}), data).valid for s in (0, 0, 1))
    assert (a == b).all()
    assert set(a) != set(c)


@pytest.fixture
def patients(tmp_path):
    """120 pictures of 30 patients, four each, in two classes; one picture is there twice, under two patients."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for n in range(120):
        folder = tmp_path / "data" / f"class{n // 4 % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"p{n // 4:02d}_{n % 4}.png")
    shutil.copy(tmp_path / "data/class0/p00_0.png", tmp_path / "data/class0/p02_9.png")
    return tmp_path / "data"


def test_pictures_of_one_patient_and_copies_stay_together(patients):
    config = build_config({"data": {"source": str(patients), "folds": 5, "group_by": r"(p\d+)_", "test_fraction": 0.2}})
    data = load_dataset(config)
    who = np.array([name.rsplit("/", 1)[-1][:3] for name in data.files])
    who[who == "p02"] = "p00"
    for fold in range(5):
        found = build_split(config.model_copy(update={"data": config.data.model_copy(update={"fold": fold})}), data)
        owners = [set(who[rows]) for rows in (found.train, found.valid, found.test)]
        assert sum(map(len, owners)) == len(set.union(*owners))
        assert len(found.valid) > 0


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(", r"group_by must be a regular expression, got '\('"),
        ("x_", "group_by must find something in every file name, got nothing in class0/p00_0.png"),
    ],
)
def test_groups_that_cannot_be_are_refused(patients, pattern, text):
    with pytest.raises(UsageError, match=text):
        find_bound(load_data(str(patients)), group_by=pattern)
    with pytest.raises(UsageError, match="group_by must go with picture files, got rows without names"):
        find_bound(load_data("digits"), group_by=pattern)


def test_folds_that_cannot_be_are_refused():
    data = dataset([0, 0, 0, 0, 0, 1, 1, 1])
    split = split_data(data, valid_fraction=0, test_fraction=0)
    with pytest.raises(UsageError, match=r"folds must be at most .* of a class, got 4 for 3 of class 1\. Lower it"):
        fold_training(split, data, folds=4, fold=0)
    with pytest.raises(UsageError, match="fold must lie in 0 to 2, got 3"):
        fold_training(split, data, folds=3, fold=3)
    with pytest.raises(UsageError, match="fold must go with folds, got 2 without"):
        clearsight.train("digits", fold=2)
    with pytest.raises(UsageError, match="valid_fraction must go with no folds"):
        cross_validate("digits", valid_fraction=0.2)


def test_groups_may_not_be_parted_by_given_splits_nor_drawn_by_count(patients):
    for part in ("train", "test"):
        (patients.parent / "split" / part).mkdir(parents=True, exist_ok=True)
        for name in ("class0", "class1"):
            shutil.copytree(patients / name, patients.parent / "split" / part / name, dirs_exist_ok=True)
    with pytest.raises(DataError, match="group_by must not part the splits that came with the data, got"):
        build_split(build_config({"data": {"group_by": r"(p\d+)_"}}), load_data(str(patients.parent / "split")))
    with pytest.raises(UsageError, match="group_by must go with no train_per_class"):
        clearsight.train(str(patients), group_by="p", train_per_class=5)


def test_what_cannot_be_cross_validated_is_refused_before_it_is_trained(tmp_path):
    with pytest.raises(UsageError, match="--metric must be one of accuracy, loss for this data, got 'mae'"):
        cross_validate("digits", metric="mae", root=tmp_path)
    with pytest.raises(UsageError, match=r"--repeats must be 1 without data\.shuffle_split, got 2"):
        cross_validate("digits", repeats=2, shuffle_split=False, root=tmp_path)
    assert not list(tmp_path.iterdir())
    notes = []
    cross_validate("digits", folds=2, epochs=2, patience=1, hidden=(8,), root=tmp_path, note=notes.append)
    assert any("a little better than they are" in text for text in notes)


@pytest.mark.long
def test_cross_validation_is_its_folds_one_by_one(tmp_path):
    found = cross_validate("digits", folds=3, repeats=2, epochs=2, hidden=(16,), root=tmp_path)
    again = [
        clearsight.train(
            "digits", folds=3, fold=f, fold_seed=r, epochs=2, hidden=(16,), test_fraction=0.0, root=tmp_path
        ).valid.accuracy
        for r in range(2)
        for f in range(3)
    ]
    assert [fold.metrics["accuracy"] for fold in found.folds] == again
    assert found.mean == pytest.approx(np.mean(again))
    assert (found.low, found.high) == pytest.approx(mean_interval(tuple(again), ratio=1 / 2), rel=1e-2)


def test_every_row_has_outputs_of_a_model_that_had_not_seen_it(tmp_path):
    found = cross_validate("digits", folds=4, repeats=2, epochs=2, hidden=(16,), test_fraction=0.2, root=tmp_path)
    kept = load_file(found.path / "out-of-fold.safetensors")
    assert kept["outputs"].shape == (2, 1438, 10)
    assert np.isfinite(kept["outputs"]).all()
    split = build_split(build_config({}), load_data("digits"))
    assert not set(kept["rows"]) & set(split.test)
    for repeat in range(2):
        right = (kept["outputs"][repeat].argmax(1) == kept["labels"]).mean()
        own = [fold for fold in found.folds if fold.repeat == repeat]
        assert right == pytest.approx(sum(fold.metrics["accuracy"] * fold.n for fold in own) / 1438)


def test_a_cross_validation_that_was_killed_goes_on_with_the_folds_that_are_left(tmp_path, monkeypatch):
    options = {"folds": 3, "repeats": 2, "epochs": 2, "hidden": (16,), "root": tmp_path, "workers": 1}
    whole = cross_validate("digits", **options)
    notes, wanted, real = [], [], executors.run_job

    def die_in_the_fourth(dataset, job, stop=None):
        wanted.append(job)
        if len(wanted) == 4:
            raise KeyboardInterrupt
        return real(dataset, job, stop)

    monkeypatch.setattr(executors, "run_job", die_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        cross_validate("digits", **options, out=tmp_path / "killed", note=notes.append)
    assert f"go on with `clearsight cv --resume {tmp_path / 'killed'}`" in notes[-1]
    (tmp_path / "killed" / "folds" / "0001.safetensors").write_bytes(b"damaged")
    wanted.extend([None] * 9)  # no more deaths
    again = cross_validate(resume=tmp_path / "killed")
    assert len(wanted) == 4 + 9 + 4  # one of the three that were done is damaged
    assert [fold.metrics for fold in again.folds] == [fold.metrics for fold in whole.folds]
    assert (again.outputs == whole.outputs).all()
    assert cross_validate(resume="last", root=tmp_path).summary()["mean"] == whole.mean
    with pytest.raises(UsageError, match="--resume must stand alone but for how to compute, got more"):
        cross_validate(resume=tmp_path / "killed", folds=4)
    with pytest.raises(UsageError, match="--resume must go on with digits, got mnist beside it"):
        cross_validate("mnist", resume=tmp_path / "killed")
    with pytest.raises(UsageError, match=r"--resume must name a directory with a cv\.json, got 'nowhere'"):
        cross_validate(resume="nowhere", root=tmp_path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"folds": "3"}, "--folds must be a whole number of 2 or more, got '3'"),
        ({"repeats": 0}, "--repeats must be a whole number of 1 or more, got 0"),
        ({"workers": 1.5}, r"--workers must be a whole number of 1 or more, got 1\.5"),
    ],
)
def test_numbers_that_are_none_are_refused(tmp_path, options, text):
    with pytest.raises(UsageError, match=text):
        cross_validate("digits", root=tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_cv_on_the_command_line(tmp_path, call, capsys):
    assert call("cv", "digits", "--folds", "3", "--epochs", "1", "--hidden", "8", "--root", tmp_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["folds"]) == 3
    assert found["interval"][0] < found["mean"] < found["interval"][1]
    assert call("cv", "digits", "--folds", "3", "--epochs", "1", "--hidden", "8", "--root", tmp_path) == 0
    text = capsys.readouterr()
    assert "mean of 3 runs on 1,797 pictures, 95 % interval" in text.out
    assert (
        "all 1,797 pictures are in the folds; --set data.test_fraction=0.2 keeps a test split out of them" in text.err
    )
    assert (
        call(
            "cv",
            "digits",
            "--folds",
            "2",
            "--epochs",
            "1",
            "--hidden",
            "8",
            "--root",
            tmp_path,
            "--set",
            "data.test_fraction=0.2",
        )
        == 0
    )
    text = capsys.readouterr()
    assert "mean of 2 runs on 1,438 pictures" in text.out
    assert "359 test pictures are in no fold, as they were asked for by data.test_fraction" in text.err
    assert call("cv", "digits", "--folds", "500", "--root", tmp_path) == 2


def test_regression_folds_are_judged_by_their_error(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 5)).astype(np.uint8)
    found = cross_validate(
        images, images.sum(1) / 255, task="regression", folds=3, epochs=3, hidden=(8,), root=tmp_path, test_fraction=0.0
    )
    assert found.metric == "mae"
    assert found.mean == pytest.approx(np.mean([fold.metrics["mae"] for fold in found.folds]))


def test_a_fold_in_the_place_of_another_is_computed_anew(tmp_path):
    options = {"folds": 3, "epochs": 2, "hidden": (16,)}
    whole = cross_validate("digits", root=tmp_path, out=tmp_path / "cv", **options)
    shutil.copy(tmp_path / "cv" / "folds" / "0002.safetensors", tmp_path / "cv" / "folds" / "0001.safetensors")
    again = cross_validate(resume=tmp_path / "cv")
    assert (again.outputs == whole.outputs).all()


def test_folds_that_diverge_are_told_and_all_of_them_are_an_error(tmp_path, call, capsys):
    flags = ["--folds", "3", "--epochs", "2", "--hidden", "8", "--set", "train.lr=1e30", "--root", tmp_path]
    assert call("cv", "digits", *flags) == 4
    assert "folds must have finite losses, got none in any" in capsys.readouterr().err


@pytest.mark.long
def test_a_place_where_nothing_could_begin_is_left_free(tmp_path, call, monkeypatch):
    monkeypatch.setattr("clearsight.search.executors._ANSWER_TIME", "0.5s")
    flags = ["--executor", "dask://127.0.0.1:1", "--out", tmp_path / "cv", "--root", tmp_path]
    assert call("cv", "digits", *flags) == 2
    assert not (tmp_path / "cv").exists()


def test_a_test_split_that_came_with_the_data_is_in_no_fold_unless_pooled(tmp_path):
    root = make(tmp_path / "d", *many("train/a", "train/b"), *many("test/a", "test/b", n=4))
    notes = []
    options = {"folds": 2, "epochs": 1, "hidden": (2,), "check": False, "note": notes.append}
    assert len(cross_validate(root, root=tmp_path / "runs", **options).rows) == 24
    assert "8 test pictures are in no fold, as they came with the data; --set data.pool=true takes them in" in notes
    assert len(cross_validate(root, root=tmp_path / "runs", pool=True, **options).rows) == 32
    assert any(text.startswith("all 32 pictures are in the folds;") for text in notes)


@pytest.mark.parametrize(
    "more",
    [
        {"config": {"train": {"epochs": 1}}},
        {"metric": "loss"},
        {"out": "x"},
        {"epochs": 2},
        {"folds": 4},
        {"repeats": 2},
    ],
)
def test_what_is_set_beside_resume_is_refused_one_by_one(tmp_path, more):
    with pytest.raises(UsageError, match=r"--resume must stand alone but for how to compute, got more\."):
        cross_validate(resume=tmp_path, **more)


def test_repeats_need_folds_that_are_drawn_and_one_round_does_not(tmp_path):
    data = (np.arange(24 * 16).reshape(24, 4, 4) % 250).astype(np.uint8), np.arange(24) % 2
    options = {"folds": 2, "epochs": 1, "hidden": (2,), "shuffle_split": False, "root": tmp_path}
    with pytest.raises(UsageError, match=r"--repeats must be 1 without data\.shuffle_split, got 2: all would be alike"):
        cross_validate(*data, repeats=2, **options)
    assert len(cross_validate(*data, **options).folds) == 2


def test_a_cross_validation_keeps_its_corrections_and_says_what_it_chose(tmp_path):
    root = make(tmp_path / "d", *many("a", "b", n=8))
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    table = tmp_path / "fix.csv"
    table.write_text(f"row,name,label,new_label\n0,{names[0]},a,b\n")
    notes = []
    options = {"folds": 2, "epochs": 1, "hidden": (2,), "image_size": 8, "relabel": str(table), "note": notes.append}
    found = cross_validate(root, out=tmp_path / "cv", **options)
    assert (found.path / "corrections.csv").read_text() == table.read_text()
    record = json.loads((found.path / "cv.json").read_text())
    assert record["config"]["model"]["hidden"] == [2]
    with pytest.raises(UsageError, match=r"--out or --root must lie outside the data"):
        cross_validate(root, out=root / "cv", **options | {"relabel": None})


@pytest.fixture
def small(tmp_path):
    """16 pictures in two folders, and settings that train on them in no time."""
    root = make(tmp_path / "d", *many("a", "b", n=8))
    return root, {"folds": 2, "epochs": 1, "hidden": (2,), "image_size": 8, "root": tmp_path / "runs"}


def test_a_record_holds_what_was_set_and_chosen_with_full_paths_and_a_run_repeats_from_its_configuration(
    tmp_path, small, monkeypatch
):
    root, options = small
    del options["hidden"]
    monkeypatch.chdir(tmp_path)
    found = cross_validate("d", **options)
    config = json.loads((found.path / "cv.json").read_text())["config"]
    assert config["model"] == {"family": "mlp"}  # nobody named one
    assert config["train"] == {"epochs": 1}
    assert (config["data"]["source"], config["data"]["folds"]) == (str(root), 2)
    kept = tomllib.loads((found.path / "config.toml").read_text())
    assert build_config(kept) == build_config(config)
    assert b"\r" not in (found.path / "folds.csv").read_bytes()


def test_a_setting_without_effect_is_refused_before_anything_is_written(tmp_path, small):
    root, options = small
    with pytest.raises(UsageError, match="beta1 must go with optimizer adam, adamw or muon, got"):
        cross_validate(root, beta1=0.5, optimizer="momentum", **options)
    assert not (tmp_path / "runs").exists()


def test_whoever_waits_is_told_of_pictures_and_of_runs_done_before_and_now(small, monkeypatch):
    root, options = small
    del options["hidden"]  # it would settle the kind of network
    told = {}

    class Counting(SilentMeter):
        def __init__(self, label, total, *, unit="pictures"):
            self.label = label
            told.setdefault(label, []).append([total, unit])

        def __call__(self, count=1):
            told[self.label][-1].append(count)

    monkeypatch.setattr(cv, "build_meter", lambda *, quiet: SilentMeter if quiet else Counting)
    found = cross_validate(root, quiet=False, **options)
    assert told["cross-validating"] == [[2, "runs", 0, 1, 1]]
    assert "reading headers" in told
    (found.path / "folds" / "0001.safetensors").unlink()
    cross_validate(resume=found.path, quiet=False)
    assert told["cross-validating"][1:] == [[2, "runs", 1, 1]]
    told.clear()
    cross_validate(root, **options)
    assert not told


def test_what_runs_share_is_computed_once_for_those_that_are_left(small, monkeypatch):
    root, options = small
    asked = []
    monkeypatch.setattr(cv, "warm_features", lambda *given, runs=0, **named: asked.append(runs))
    found = cross_validate(root, **options)
    (found.path / "folds" / "0001.safetensors").unlink()
    cross_validate(resume=found.path)
    cross_validate(resume=found.path)
    assert asked == [2, 1]


def test_other_weights_than_a_cross_validation_began_with_are_refused(small):
    root, options = small
    path = cross_validate(root, **options).path
    record = json.loads((path / "cv.json").read_text())
    (path / "cv.json").write_text(json.dumps(record | {"weights": "ab" * 32}))
    with pytest.raises(UsageError, match="--resume must find the weights that it began with, got SHA-256 "):
        cross_validate(resume=path)


def test_some_runs_that_diverge_are_told_and_count(small, monkeypatch):
    root, options = small
    real, notes = executors.run_job, []

    def diverge_once(dataset, job, stop=None):
        done = real(dataset, job, stop)
        return replace(done, status="diverged") if job.settings["data"]["fold"] == 1 else done

    monkeypatch.setattr(executors, "run_job", diverge_once)
    found = cross_validate(root, workers=1, note=notes.append, **options)
    assert "1 of 2 runs diverged and count with the weights they had before" in notes
    assert [fold.status for fold in found.folds] == ["finished", "diverged"]
    assert found.mean == pytest.approx(np.mean([fold.metrics["accuracy"] for fold in found.folds]))
