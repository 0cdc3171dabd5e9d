"""The training loop alone, driven by an engine whose losses and answers are written down: what it keeps, when, and what it says."""

import contextlib
import signal
import threading

import numpy as np
import pytest
from scipy.special import huber as scipy_huber
from scipy.special import log_softmax
from scripted import BATCH, LABELS, STEPS, TRAIN, VALID, Clock, Listener, Scripted, rates, train

from clearsight.engines.team import Team
from clearsight.errors import Interrupted, UsageError
from clearsight.evaluation.losses import accuracy, mean_loss
from clearsight.training import fit as fit_module
from clearsight.training.fit import check_stopping
from clearsight.training.order import epoch_order
from clearsight.training.stop import StopRequest

# By epoch: the validation loss is lowest in the second, the accuracy highest in the fourth, the training loss lowest in the sixth.
ANSWERS = [
    (1, 1, -2, -2),
    (3, 3, -0.1, -0.1),
    (-1,) * 4,
    (0.1, 0.1, 0.1, -9),
    (1, -3, -3, -3),
    (2, -4, -4, -4),
    (-0.5,) * 4,
]
LOSSES = np.repeat([2.0, 1.8, 1.7, 1.6, 1.5, 1.0, 1.9], STEPS)
BEST = {"valid_loss": 2, "valid_accuracy": 4, "train_loss": 6}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


def scripted(**options):
    return Scripted(LOSSES, ANSWERS, **options)


@pytest.mark.parametrize("monitor", BEST)
def test_the_best_epoch_is_the_lowest_loss_or_the_highest_accuracy(monitor):
    engine = scripted()
    result = train(engine, 7, patience=7, monitor=monitor)
    values = np.array(result.history.column(monitor))
    assert result.epoch == BEST[monitor] == 1 + (values.argmax() if "accuracy" in monitor else values.argmin())
    assert engine.taken == BEST[monitor] * STEPS
    assert result.status == "finished"
    assert len(values) == 7


@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("monitor", ["valid_loss", "valid_accuracy"])
def test_training_stops_after_so_many_epochs_without_a_better_one(monitor, patience):
    result = train(scripted(), 7, patience=patience, monitor=monitor)
    better = [result.history.column(monitor)[0]]
    for value in result.history.column(monitor)[1:]:
        better.append((max if "accuracy" in monitor else min)(better[-1], value))
    assert result.epoch == better.index(better[-1]) + 1
    assert len(better) == result.epoch + patience
    assert result.status == "stopped early"


def test_an_epoch_that_is_only_as_good_is_no_better():
    result = train(Scripted(answers=[(1.0,) * 4]), 9, patience=3)
    assert (result.epoch, len(result.history.epochs)) == (1, 4)


def test_a_value_that_is_not_finite_is_never_the_best():
    result = train(Scripted(answers=[(np.nan,) * 4, (1.0,) * 4, (np.nan,) * 4]), 5, patience=2)
    assert (result.epoch, result.status, len(result.history.epochs)) == (2, "stopped early", 4)


def test_without_patience_the_last_weights_stay():
    engine = scripted()
    result = train(engine, 7)
    assert (result.status, result.epoch, engine.taken, result.problem, result.saved) == ("finished", 7, 28, "", None)


@pytest.mark.parametrize(("patience", "kept"), [(None, 4), (9, 2)])
def test_a_loss_that_is_not_finite_goes_back_to_the_last_good_epoch_or_with_patience_to_the_best(patience, kept):
    losses = LOSSES.copy()
    losses[4 * STEPS + 2] = np.nan
    engine = Scripted(losses, ANSWERS)
    result = train(engine, 7, patience=patience)
    assert (result.status, result.epoch, engine.taken) == ("diverged", kept, kept * STEPS)
    assert len(result.history.step_losses) == len(result.history.step_lrs) == 4 * STEPS + 3
    assert result.problem == (
        f"loss must stay finite, got nan at step 18 (epoch 5, lr {rates(7)[18]:g}). "
        f"Kept the weights of epoch {kept}; try a tenth of the learning rate."
    )


@pytest.mark.parametrize(("patience", "kept"), [(None, 4), (9, 2)])
def test_weights_that_are_not_finite_count_as_divergence_though_every_loss_is(patience, kept):
    engine = scripted(broken=5 * STEPS)
    result = train(engine, 7, patience=patience)
    assert (result.status, result.epoch, engine.taken) == ("diverged", kept, kept * STEPS)
    assert result.problem.startswith("weights must stay finite, got NaN or inf at step 19 (epoch 5, lr ")
    assert len(result.history.epochs) == 4


def test_divergence_in_the_first_epoch_keeps_the_first_weights():
    engine = Scripted([1.0, np.inf])
    result = train(engine, 3, patience=2)
    assert (result.status, result.epoch, engine.taken, result.history.epochs) == ("diverged", 0, 0, [])
    assert "got inf at step 1 (epoch 1," in result.problem


def test_a_row_of_the_history_says_what_its_epoch_was(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(fit_module, "time", clock)
    engine = scripted(seconds=2.0, clock=clock)
    history = train(engine, 3).history
    for k, row in enumerate(history.epochs):
        assert row["epoch"] == k + 1
        assert row["lr"] == rates(3)[STEPS * (k + 1) - 1]
        assert row["train_loss"] == LOSSES[STEPS * k]
        assert row["train_accuracy"] == (1 + 2 + 3 + 4) / len(TRAIN)
        assert row["valid_loss"] == pytest.approx(
            np.mean(np.log1p(np.exp(-np.array(ANSWERS[k], np.float64)))), rel=1e-6
        )
        assert row["valid_accuracy"] == np.mean(np.array(ANSWERS[k]) >= 0)
        assert row["seconds"] == 2.0 * STEPS + 100.0
    np.testing.assert_array_equal(history.step_losses, LOSSES[: 3 * STEPS])
    np.testing.assert_array_equal(history.step_lrs, rates(3))


def test_nothing_is_validated_without_rows_and_numbers_have_no_accuracy():
    row = train(scripted(), 1, valid=VALID[:0]).history.epochs[0]
    assert row["valid_loss"] is row["valid_accuracy"] is None
    targets = np.r_[np.zeros(10), 9.0, 9.0, 5.0, 5.0].astype(np.float32)
    row = train(scripted(), 1, labels=targets, target_mean=5.0, target_std=2.0).history.epochs[0]
    assert row["train_accuracy"] is row["valid_accuracy"] is None
    assert row["valid_loss"] == pytest.approx(np.mean(0.5 * np.array([1 - 2, 1 - 2, -2, -2]) ** 2))
    row = train(scripted(), 1, labels=targets, target_mean=5.0, target_std=2.0, huber=1.5).history.epochs[0]
    assert row["valid_loss"] == pytest.approx(np.mean([0.5, 0.5, 1.5 * (2 - 0.75), 1.5 * (2 - 0.75)]))


def test_every_batch_comes_once_in_the_order_of_its_epoch_with_its_rate():
    for balanced in (False, True):
        engine = scripted()
        train(engine, 3, balanced=balanced)
        seen, seen_rates = [], []
        for order, epoch, first_batch, first_step, lrs in engine.calls:
            classes = LABELS[TRAIN] if balanced else None
            np.testing.assert_array_equal(order, epoch_order(TRAIN, seed=5, epoch=epoch, classes=classes))
            seen += [(epoch, first_batch + i, first_step + i) for i in range(len(lrs))]
            seen_rates += lrs.tolist()
        assert seen == [(k // STEPS, k % STEPS, k) for k in range(3 * STEPS)]
        assert seen_rates == rates(3).tolist()


def test_calls_grow_to_a_fifth_of_a_second_and_end_with_the_epoch_and_with_every_save(monkeypatch, tmp_path):
    clock, sizes = Clock(), {}
    monkeypatch.setattr(fit_module, "time", clock)
    wide = {"train": np.arange(10), "batch_size": 1, "lrs": np.full(20, 0.1), "valid": VALID[:0]}
    ways = {"quick": (0.0, {}), "slow": (0.066, {}), "very slow": (9.0, {})}
    ways |= {"saved": (0.0, {"checkpoints": tmp_path, "checkpoint_steps": 4}), "kept": (0.0, {"keep_steps": 3})}
    for name, (seconds, options) in ways.items():
        engine = Scripted(seconds=seconds, clock=clock)
        train(engine, 2, **wide | options)
        sizes[name] = [len(call[-1]) for call in engine.calls]
    assert sizes["quick"] == [1, 9, 10]
    assert sizes["slow"] == [1, 3, 3, 3, 3, 3, 3, 1]
    assert sizes["very slow"] == [1] * 20
    assert sizes["saved"] == [1, 3, 4, 2, 2, 4, 4]
    assert sizes["kept"] == [1, 2, 3, 3, 1, 2, 3, 3, 2]


def test_observers_hear_of_every_step_and_epoch_and_of_the_end():
    heard = Listener()
    result = train(scripted(), 2, observers=[heard])
    assert heard.heard[0] == ("start", {"epochs": 2, "steps": 2 * STEPS, "done": 0})
    assert heard.heard[-1] == ("end", {"status": "finished"})
    steps = [facts for kind, facts in heard.heard if kind == "steps"]
    assert [loss for facts in steps for loss in facts["losses"]] == result.history.step_losses.tolist()
    assert [lr for facts in steps for lr in facts["lrs"]] == rates(2).tolist()
    assert steps[-1]["done"] == 2 * STEPS
    assert {(facts["epoch"], facts["done"] > STEPS) for facts in steps} == {(1, False), (2, True)}
    assert [facts for kind, facts in heard.heard if kind == "epoch"] == result.history.epochs
    assert [kind for kind, _ in heard.heard].index("epoch") == len([f for f in steps if f["epoch"] == 1]) + 1


def test_observers_are_told_how_it_ended_and_of_checkpoints(tmp_path):
    ends = {}
    for name, engine, options in (
        ("finished", scripted(), {"checkpoints": tmp_path, "checkpoint_steps": 3}),
        ("paused", scripted(), {"pause_epoch": 1}),
        ("stopped early", scripted(), {"patience": 1}),
        ("diverged", Scripted([1.0, np.nan]), {}),
        ("failed", scripted(), {}),
    ):
        first, heard = Listener(), Listener()
        if name == "failed":
            engine.on_step = lambda at: 1 / 0
        with contextlib.suppress(ZeroDivisionError):
            train(engine, 7, observers=[first, heard], **options)
        assert first.heard == heard.heard
        ends[name] = heard.heard[-1]
        saved = [facts["done"] for kind, facts in heard.heard if kind == "checkpoint"]
        assert saved == (list(range(3, 7 * STEPS + 1, 3)) if name == "finished" else [])
    assert ends == {name: ("end", {"status": name}) for name in ends}


def test_a_patience_with_nothing_to_watch_is_refused_before_the_first_step():
    engine = scripted()
    with pytest.raises(UsageError, match="patience must have validation rows to watch valid_loss, got none"):
        train(engine, 3, patience=2, valid=VALID[:0])
    assert engine.calls == []


@pytest.mark.parametrize(
    ("losses", "advice"),
    [
        ([np.nan], "look at model.init_std and at the scale of the pixels."),
        ([1.0, np.nan], "try a tenth of the learning rate."),
    ],
)
def test_only_a_first_loss_that_is_not_finite_is_the_initialisation_s_fault(losses, advice):
    assert train(Scripted(losses), 3).problem.endswith(f"; {advice}")


def test_watching_changes_no_bit():
    alone, watched = scripted(), scripted()
    expected = outcome(alone, train(alone, 7, patience=3))
    assert outcome(watched, train(watched, 7, patience=3, observers=[Listener(), Listener()])) == expected


def test_weights_are_kept_from_before_the_first_epoch_on_if_asked_for():
    assert np.ravel(train(scripted(), 3, weight_history=True).history.weights).tolist() == [
        0,
        STEPS,
        2 * STEPS,
        3 * STEPS,
    ]
    assert train(scripted(), 3).history.weights == []


def test_observers_hear_of_every_so_many_steps_if_asked_for():
    heard = Listener()
    train(scripted(), 3, observers=[heard], keep_steps=3)
    assert {3, 6, 9, 12} <= {facts["done"] for kind, facts in heard.heard if kind == "steps"}


class Killed(BaseException):
    pass


def outcome(engine, result):
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result.history.epochs]
    arrays = [result.history.step_losses, result.history.step_lrs, *result.history.weights]
    state = {name: values.tobytes() for name, values in engine.state().items()}
    return result.status, result.epoch, state, rows, [values.tobytes() for values in arrays]


@pytest.mark.long
@pytest.mark.parametrize("monitor", ["valid_loss", "valid_accuracy"])
def test_killed_at_any_step_and_resumed_with_patience_ends_as_if_nothing_had_happened(tmp_path, monitor):
    options = {"patience": 3, "monitor": monitor, "weight_history": True, "checkpoint_steps": 1}
    whole = scripted()
    expected = outcome(whole, train(whole, 7, **options))
    assert expected[0] == "stopped early"
    for step in range(1, len(np.frombuffer(expected[-1][0])) + 1):
        killed, places = scripted(), {"checkpoints": tmp_path / f"{step}"}

        def die(at, step=step):
            if at == step:
                raise Killed

        killed.on_step = die
        with contextlib.suppress(Killed):  # the last one dies after its end
            train(killed, 7, **options, **places)
        resumed, notes = scripted(), []
        assert outcome(resumed, train(resumed, 7, **options, **places, resume=True, note=notes.append)) == expected, (
            step
        )
        assert notes == []


@pytest.mark.parametrize(("patience", "kept"), [(None, 4), (9, 2)])
def test_a_resumed_run_that_diverges_still_has_its_last_good_and_its_best_weights(tmp_path, patience, kept):
    losses = LOSSES.copy()
    losses[4 * STEPS + 3] = np.nan
    options = {"patience": patience, "checkpoints": tmp_path, "checkpoint_steps": 1}
    killed = Scripted(LOSSES[: 4 * STEPS + 2], ANSWERS)
    killed.on_step = lambda at: (_ for _ in ()).throw(Killed) if at == 4 * STEPS + 2 else None
    with pytest.raises(Killed):
        train(killed, 7, **options)
    engine = Scripted(losses, ANSWERS)
    result = train(engine, 7, **options, resume=True)
    assert (result.status, result.epoch, engine.taken) == ("diverged", kept, kept * STEPS)


def test_time_spent_before_a_kill_is_counted(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(fit_module, "time", clock)
    options = {"checkpoints": tmp_path, "checkpoint_steps": 1}
    killed = scripted(seconds=2.0, clock=clock)
    killed.on_step = lambda at: (_ for _ in ()).throw(Killed) if at == 3 else None
    with pytest.raises(Killed):
        train(killed, 1, **options)
    row = train(scripted(seconds=2.0, clock=clock), 1, **options, resume=True).history.epochs[0]
    assert row["seconds"] == 4 * 2.0 + 100.0
    assert row["train_accuracy"] == 1.0


def test_a_resumed_run_tells_progress_how_far_it_was(tmp_path):
    options = {"checkpoints": tmp_path, "checkpoint_steps": 1}
    killed, heard = scripted(), Listener()
    killed.on_step = lambda at: (_ for _ in ()).throw(Killed) if at == 6 else None
    with pytest.raises(Killed):
        train(killed, 3, **options)
    train(scripted(), 3, **options, resume=True, observers=[heard])
    assert heard.heard[0] == ("start", {"epochs": 3, "steps": 12, "done": 6})
    assert heard.heard[1][1]["epoch"] == 2


@pytest.mark.parametrize("patience", [None, 3])
def test_a_paused_run_goes_on_from_what_it_saved(patience):
    options = {"patience": patience, "weight_history": True}
    whole = scripted()
    expected = outcome(whole, train(whole, 7, **options))
    first = scripted()
    paused = train(first, 7, **options, pause_epoch=2)
    assert (paused.status, paused.epoch, len(paused.history.epochs)) == ("paused", 2, 2)
    second = scripted()
    assert outcome(second, train(second, 7, **options, start=paused.saved)) == expected
    assert second.calls[0][3] == 2 * STEPS


def test_a_pause_at_the_very_end_or_after_patience_ran_out_is_the_end():
    assert train(scripted(), 3, pause_epoch=3).status == "finished"
    assert train(scripted(), 7, patience=1, pause_epoch=3).status == "stopped early"


def test_resuming_with_nothing_to_resume_says_so(tmp_path):
    notes = []
    result = train(scripted(), 2, checkpoints=tmp_path / "none", resume=True, note=notes.append)
    assert notes == ["no checkpoint was found; starting from the first step"]
    assert result.epoch == 2
    notes.clear()
    train(scripted(), 2, checkpoints=tmp_path / "other", note=notes.append)
    assert notes == []


def test_a_folder_to_restore_from_is_read_and_never_written(tmp_path):
    train(scripted(), 2, checkpoints=tmp_path, checkpoint_steps=1)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    engine, heard = scripted(), Listener()
    train(engine, 3, restore=tmp_path, observers=[heard])
    assert heard.heard[0][1]["done"] == 2 * STEPS
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_damaged_checkpoints_are_told_of(tmp_path):
    train(scripted(), 2, checkpoints=tmp_path, checkpoint_steps=1)
    (tmp_path / "step-000000008" / "fit.json").write_text("{}")
    notes = []
    train(scripted(), 3, checkpoints=tmp_path, resume=True, note=notes.append)
    assert len(notes) == 1
    assert notes[0].startswith("checkpoint step-000000008 is damaged")


def test_checkpoints_come_after_so_many_seconds(tmp_path, monkeypatch):
    clock, saved = Clock(), []
    monkeypatch.setattr(fit_module, "time", clock)
    original = fit_module.save_checkpoint
    monkeypatch.setattr(
        fit_module, "save_checkpoint", lambda *a, step, **k: saved.append(step) or original(*a, step=step, **k)
    )
    engine = Scripted(seconds=4.0, clock=clock)
    train(engine, 4, checkpoints=tmp_path, checkpoint_seconds=10.0, valid=VALID[:0])
    assert saved == [3, 6, 9, 12, 15]  # after 12 seconds each
    saved.clear()
    train(Scripted(seconds=4.0, clock=clock), 4, checkpoints=tmp_path, checkpoint_steps=5, valid=VALID[:0])
    assert saved == [5, 10, 15]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_after_the_step_under_way_with_a_checkpoint(tmp_path, number, code):
    engine, heard = scripted(), Listener()
    engine.on_step = lambda at: signal.raise_signal(number) if at == 5 else None
    with pytest.raises(Interrupted, match=r"^stopped on request after step 8\.$") as stopped:
        train(engine, 3, checkpoints=tmp_path, checkpoint_seconds=1e9, observers=[heard])
    assert stopped.value.exit_code == code
    assert heard.heard[-1] == ("end", {"status": "interrupted"})
    resumed, whole = scripted(), scripted()
    expected = outcome(whole, train(whole, 3))
    assert outcome(resumed, train(resumed, 3, checkpoints=tmp_path, resume=True)) == expected


def test_another_thread_may_ask_to_stop_at_the_step_under_way(tmp_path):
    request, engine = StopRequest(), scripted()

    def ask(at):
        if at == 5:
            thread = threading.Thread(target=request.ask)
            thread.start()
            thread.join()

    engine.on_step = ask
    with pytest.raises(Interrupted, match=r"^stopped on request after step 8\.$") as stopped:
        train(engine, 3, checkpoints=tmp_path, checkpoint_seconds=1e9, stop=request)
    assert (stopped.value.exit_code, request.received) == (130, signal.SIGINT)
    resumed, whole = scripted(), scripted()
    expected = outcome(whole, train(whole, 3))
    assert outcome(resumed, train(resumed, 3, checkpoints=tmp_path, resume=True)) == expected


def test_a_team_pauses_where_its_first_process_does_and_stops_together():
    asked = []

    class Two(Team):
        rank, size = 1, 2

        def sync(self, numbers):
            asked.append(numbers)
            return 2, signal.SIGTERM if len(asked) == 3 else numbers[1]

    engine = scripted()
    with pytest.raises(Interrupted, match="after step 4"):
        train(engine, 3, team=Two())
    assert [len(call[-1]) for call in engine.calls] == [1, 2, 1]
    assert all(wish == 0 for _, wish in asked)
    before = signal.getsignal(signal.SIGTERM)
    engine = scripted()
    engine.on_step = lambda at: signal.raise_signal(signal.SIGTERM) if at == 1 else None
    with pytest.raises(Interrupted, match="after step 3"):
        train(engine, 3, team=Two())
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": "loss"}, "monitor must be one of valid_loss, valid_accuracy, train_loss, got 'loss'. Choose one of them."),
        ({"patience": 0}, "patience must be 1 or more, got 0. Leave it out to train to the end."),
        ({"patience": 1, "num_valid": 0}, "patience must have validation rows to watch valid_loss, got none. Set data.valid_fraction to 0.1."),
        (
            {"patience": 1, "monitor": "valid_accuracy", "regression": True},
            "monitor must be valid_loss or train_loss for regression, got valid_accuracy. Choose one of them.",
        ),
    ],
)  # fmt: skip
def test_a_patience_that_cannot_be_is_refused(options, message):
    usual = {"patience": None, "monitor": "valid_loss", "num_valid": 4, "regression": False}
    with pytest.raises(UsageError) as refused:
        check_stopping(**usual | options)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1},
        {"patience": None, "num_valid": 0},
        {"patience": 1, "monitor": "train_loss", "num_valid": 0},
        {"patience": 1, "regression": True},
        {"patience": 1, "monitor": "valid_accuracy"},
        {"patience": None, "monitor": "valid_accuracy", "regression": True},
    ],
    ids=str,
)
def test_a_patience_that_can_be_is_not(options):
    check_stopping(**{"monitor": "valid_loss", "num_valid": 1, "regression": False} | options)


def test_losses_are_those_of_scipy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(9, 4)).astype(np.float32) * 9, rng.integers(0, 4, 9)
    expected = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(9), labels].mean()
    assert mean_loss(logits, labels) == pytest.approx(expected, rel=1e-12)
    assert accuracy(logits, labels) == np.mean([row.argmax() == k for row, k in zip(logits, labels, strict=True)])
    targets = (rng.normal(size=9) * 7 + 3).astype(np.float32)
    assert mean_loss(logits, targets) == pytest.approx(
        np.mean((logits[:, 0] - targets.astype(np.float64)) ** 2) / 2, rel=1e-12
    )
    error = logits[:, 0] - (targets.astype(np.float64) - 3) / 7
    assert mean_loss(logits, targets, mean=3.0, std=7.0) == pytest.approx(np.mean(error**2) / 2, rel=1e-12)
    got = mean_loss(logits, targets, mean=3.0, std=7.0, huber=1.3)
    assert got == pytest.approx(scipy_huber(1.3, error).mean(), rel=1e-12)
    assert accuracy(logits, targets) is None


def test_batches_of_an_epoch_that_does_not_divide_are_rounded_up():
    assert len(TRAIN) % BATCH
    assert train(scripted(), 1).history.steps_per_epoch == STEPS
