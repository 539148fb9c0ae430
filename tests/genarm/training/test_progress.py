"""What a run shows: lines where there is no terminal, a bar where there is one, once for all processes."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from genarm.training.progress import ShowProgress, accuracy_of, figures


@pytest.mark.parametrize(
    ("logs", "text"),
    [
        ({"loss": 0.69314, "accuracy": 0.5}, "loss 0.6931, accuracy 50.0%"),
        ({"loss": 0.5, "rewards/accuracies": 0.815}, "loss 0.5000, accuracy 81.5%"),
        ({"loss": 0.5}, "loss 0.5000"),
        ({"eval_loss": 0.25, "eval_accuracy": 1.0}, "held out: loss 0.2500, accuracy 100.0%"),
        ({"eval_loss": 0.25, "eval_rewards/accuracies": 0.0}, "held out: loss 0.2500, accuracy 0.0%"),
        ({"train_loss": 0.5, "train_runtime": 3.0}, ""),
        ({}, ""),
    ],
)
def test_figures_are_loss_and_accuracy_in_words(logs: dict[str, float], text: str) -> None:
    assert figures(logs) == text


def test_the_accuracy_of_training_and_of_pairs_held_out_are_two() -> None:
    logs = {"accuracy": 0.5, "eval_rewards/accuracies": 0.25}
    assert (accuracy_of(logs), accuracy_of(logs, "eval_"), accuracy_of({})) == (0.5, 0.25, None)


def shown(terminal: bool, first: bool = True, ended: bool = True) -> str:
    file = io.StringIO()
    progress = ShowProgress("arm joy", Console(file=file, force_terminal=terminal, width=100))
    state: Any = SimpleNamespace(is_world_process_zero=first, max_steps=20, global_step=0)
    progress.on_train_begin(None, state, None)
    state.global_step = 7
    progress.on_step_end(None, state, None)
    progress.on_log(None, state, None, {"loss": 0.5, "accuracy": 0.75})
    progress.on_log(None, state, None, {"train_loss": 0.5})
    if ended:
        state.global_step = 20
        progress.on_step_end(None, state, None)
        progress.on_train_end(None, state, None)
    else:
        progress.close()
    return file.getvalue()


def test_without_a_terminal_a_log_is_a_line() -> None:
    assert shown(terminal=False) == "genarm: arm joy, step 7 of 20: loss 0.5000, accuracy 75.0%\n"


def test_on_a_terminal_there_is_a_bar_that_ends_full() -> None:
    text = shown(terminal=True)
    assert "20/20" in text and "accuracy 75.0%" in text and "genarm:" not in text


def test_a_run_that_fails_gives_the_cursor_back() -> None:
    hidden, given_back = "\x1b[?25l", "\x1b[?25h"
    text = shown(terminal=True, ended=False)
    assert text.count(hidden) == text.count(given_back) == 1 and text.index(hidden) < text.index(given_back)


@pytest.mark.parametrize("terminal", [False, True])
def test_other_processes_are_silent(terminal: bool) -> None:
    assert shown(terminal, first=False) == ""
