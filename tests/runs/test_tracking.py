"""Tracking with the real libraries: what TensorBoard and MLflow read back is what the history holds."""

import json
import shutil
import warnings

import pytest
from conftest import WRITE_REPORT

import clearsight
from clearsight.errors import UsageError
from clearsight.runs.directory import RunDirectory

pytestmark = pytest.mark.long
FAST = {"epochs": 3, "hidden": (8,)}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store without runs; to make one, MLflow creates its tables in many steps."""
    found = pytest.importorskip("mlflow", reason="MLflow is not installed")
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SQLAlchemy about MLflow's own code
        found.MlflowClient(f"sqlite:///{path}").get_experiment("0")  # which each store has
    return path


@pytest.fixture
def mlflow(tmp_path, monkeypatch, empty_store):
    import mlflow as found

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)  # where a local store puts files
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    found.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield found
    found.set_tracking_uri(None)


def read_events(path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is not installed"
    )
    events = accumulator.EventAccumulator(str(path))
    events.Reload()
    from tensorboard.util.tensor_util import make_ndarray

    return {
        tag: [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_tensorboard_reads_what_the_history_holds(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    run = clearsight.train("digits", **FAST, out=tmp_path / "r", root=tmp_path, track=["tensorboard"])
    found = read_events(tmp_path / "r" / "tensorboard")
    for tag, column in (("train/loss", "train_loss"), ("valid/accuracy", "valid_accuracy"), ("lr", "lr")):
        assert [value for _, value in found[tag]] == pytest.approx(run.history.column(column), rel=1e-6)
        assert [step for step, _ in found[tag]] == [1, 2, 3]
    assert found["final/test_accuracy"][0][1] == pytest.approx(run.test.accuracy)


def test_mlflow_reads_what_the_history_holds(tmp_path, mlflow, monkeypatch):
    monkeypatch.setattr(WRITE_REPORT, lambda path: RunDirectory(path).report.touch())
    run = clearsight.train("digits", **FAST, out=tmp_path / "r", root=tmp_path, track=["mlflow"])
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    client = mlflow.MlflowClient()
    kept = client.get_run(record["track_ids"]["mlflow"])
    assert kept.info.status == "FINISHED"
    assert kept.data.params["train.epochs"] == "3"
    assert kept.data.metrics["final_test_accuracy"] == pytest.approx(run.test.accuracy)
    values = [metric.value for metric in client.get_metric_history(kept.info.run_id, "valid_loss")]
    assert values == pytest.approx(run.history.column("valid_loss"))
    assert {file.path for file in client.list_artifacts(kept.info.run_id)} >= {"model.clearsight", "report.html"}


def test_a_resumed_run_goes_on_in_the_same_books(tmp_path, mlflow, monkeypatch):
    from clearsight.errors import Interrupted
    from clearsight.training import fit as loop

    real = loop._end_epoch
    done = []

    def stop_after_two(*arguments):
        row = real(*arguments)
        done.append(row)
        if len(done) == 2:
            raise Interrupted("stopped on request after step 90.", 130)
        return row

    monkeypatch.setattr(loop, "_end_epoch", stop_after_two)
    with pytest.raises(Interrupted):
        clearsight.train(
            "digits", **FAST, checkpoint_steps=5, out=tmp_path / "r", root=tmp_path, track=["mlflow", "tensorboard"]
        )
    run_id = json.loads((tmp_path / "r" / "run.json").read_text())["track_ids"]["mlflow"]
    assert mlflow.MlflowClient().get_run(run_id).info.status == "KILLED"
    run = clearsight.train(resume=tmp_path / "r")
    history = mlflow.MlflowClient().get_metric_history(run_id, "train_loss")
    assert {metric.step: metric.value for metric in history} == {
        row["epoch"]: pytest.approx(row["train_loss"]) for row in run.history.epochs
    }
    assert mlflow.MlflowClient().get_run(run_id).info.status == "FINISHED"


def test_a_tracker_that_fails_does_not_stop_training(tmp_path, mlflow, monkeypatch):
    def fail(*arguments, **options):
        raise ConnectionError("the server has gone")

    monkeypatch.setattr(mlflow.MlflowClient, "log_metric", fail)
    notes = []
    run = clearsight.train("digits", **FAST, out=tmp_path / "r", root=tmp_path, track=["mlflow"], note=notes.append)
    assert run.status == "finished"
    assert notes == ["mlflow is left off, because it failed: the server has gone"]


def test_each_trial_of_a_search_is_a_run_with_its_settings(tmp_path, mlflow):
    options = {"search": ["train.lr=0.001,0.01"], "epochs": 1, "hidden": (8,), "retrain": False}
    found = clearsight.tune("digits", **options, out=tmp_path / "s", root=tmp_path, track=["mlflow", "tensorboard"])
    client = mlflow.MlflowClient()
    kept = client.search_runs([client.get_experiment_by_name("clearsight").experiment_id])
    scores = {float(run.data.params["train.lr"]): run.data.metrics["search_accuracy"] for run in kept}
    assert scores == {trial.params["train.lr"]: pytest.approx(trial.score) for trial in found.trials}
    for trial in found.trials:
        events = read_events(next((tmp_path / "s").rglob(f"*trial-{trial.number:04d}/tensorboard")))
        assert events["search/accuracy"][0][1] == pytest.approx(trial.score)


def test_an_unknown_tracker_is_refused(tmp_path, call, capsys):
    with pytest.raises(UsageError, match="--track must be one of tensorboard, mlflow, got 'paper'"):
        clearsight.train("digits", **FAST, root=tmp_path, track=["paper"])
    assert call("train", "digits", "--epochs", "1", "--root", tmp_path, "--track", "paper") == 2


def test_a_missing_library_says_how_to_get_it(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(
        UsageError, match=r"--track tensorboard must have TensorBoard, got none installed\. Install it with"
    ):
        clearsight.train("digits", **FAST, root=tmp_path, track=["tensorboard"])
