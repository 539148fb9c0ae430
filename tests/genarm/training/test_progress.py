"""What a run shows and what is watched while it runs: its time, its end, and that its figures are numbers."""

import io
import math
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from genarm.errors import NumericalError
from genarm.training import progress
from genarm.training.progress import (
    FiniteFigures,
    ShowProgress,
    TrainingClock,
    accuracy_of,
    check_weights,
    figures,
    mean_loss,
)


def test_figures_are_loss_and_accuracy_in_words():
    for logs, text in (
        ({"loss": 0.69314, "accuracy": 0.5}, "loss 0.6931, accuracy 50.0%"),
        ({"loss": 0.5, "rewards/accuracies": 0.815}, "loss 0.5000, accuracy 81.5%"),
        ({"loss": 0.5}, "loss 0.5000"),
        ({"eval_loss": 0.25, "eval_accuracy": 1.0}, "held out: loss 0.2500, accuracy 100.0%"),
        ({"train_loss": 0.5, "train_runtime": 3.0}, ""),
    ):
        assert figures(logs) == text
    logs = {"accuracy": 0.5, "eval_rewards/accuracies": 0.25}
    assert (accuracy_of(logs), accuracy_of(logs, "eval_"), accuracy_of({})) == (0.5, 0.25, None)


def shown(terminal, first=True, ended=True):
    file = io.StringIO()
    shows = ShowProgress("arm joy", Console(file=file, force_terminal=terminal, width=100))
    state = SimpleNamespace(is_world_process_zero=first, max_steps=20, global_step=0)
    shows.on_train_begin(None, state, None)
    state.global_step = 7
    shows.on_step_end(None, state, None)
    shows.on_log(None, state, None, {"loss": 0.5, "accuracy": 0.75})
    shows.on_log(None, state, None, {"train_loss": 0.5})
    if ended:
        state.global_step = 20
        shows.on_step_end(None, state, None)
        shows.on_train_end(None, state, None)
    else:
        shows.close()
    return file.getvalue()


def test_a_log_is_a_line_or_on_a_terminal_a_bar_that_ends_full_and_other_processes_are_silent():
    assert shown(terminal=False) == "genarm: arm joy, step 7 of 20: loss 0.5000, accuracy 75.0%\n"
    text = shown(terminal=True)
    assert "20/20" in text and "accuracy 75.0%" in text and "genarm:" not in text
    assert shown(terminal=False, first=False) == shown(terminal=True, first=False) == ""


def test_a_run_that_fails_gives_the_cursor_back():
    hidden, given_back = "\x1b[?25l", "\x1b[?25h"
    text = shown(terminal=True, ended=False)
    assert text.count(hidden) == text.count(given_back) == 1 and text.index(hidden) < text.index(given_back)


def test_seconds_before_a_checkpoint_count_and_those_lost_after_it_do_not(monkeypatch):
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now.time)
    first = TrainingClock()
    now.time += 7
    first.on_train_begin(None, None, None)
    now.time += 20
    saved = first.state()
    now.time += 1000
    second = TrainingClock.from_state(saved)
    assert second.seconds == 20
    second.on_train_begin(None, None, None)
    now.time += 5
    second.on_train_end(None, None, None)
    now.time += 50
    assert second.seconds == 25


def log(**logs):
    FiniteFigures().on_log(None, SimpleNamespace(global_step=12), None, logs)


def test_a_loss_that_is_not_finite_is_an_error():
    for name, value in (("loss", math.nan), ("loss", -math.inf), ("eval_loss", math.inf)):
        with pytest.raises(NumericalError, match=f"the loss is {value} at step 12.*lower learning rate"):
            log(**{name: value})
    log(loss=1.0, grad_norm=math.inf, eval_loss=2.0)


def test_the_last_step_and_those_saved_are_logged():
    for save, stop, expected in ((False, False, False), (True, False, True), (False, True, True)):
        control = SimpleNamespace(should_log=False, should_save=save, should_training_stop=stop)
        FiniteFigures().on_step_end(None, None, control)
        assert control.should_log is expected


def test_weights_that_are_not_finite_are_an_error_where_they_were_trained():
    model = torch.nn.Linear(2, 2)
    check_weights(model, 3)
    model.bias.data[1] = math.inf
    with pytest.raises(NumericalError, match="bias is not finite at step 3"):
        check_weights(model, 3)
    model.bias.requires_grad_(False)
    check_weights(model, 3)


def test_the_mean_loss_weighs_entries_by_their_steps():
    history = [{"loss": 4.0, "step": 1}, {"eval_loss": 9.0, "step": 1}, {"loss": 1.0, "step": 4}]
    assert mean_loss([*history, {"loss": 2.0, "step": 5}]) == pytest.approx((4 + 3 * 1 + 2) / 5)
    assert mean_loss([]) == 0.0
