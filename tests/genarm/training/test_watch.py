"""Time adds up over the parts of a run, and no figure that is no number goes unseen."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from genarm.errors import NumericalError
from genarm.training import progress
from genarm.training.progress import FiniteFigures, TrainingClock, check_weights, mean_loss


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Any:
    clock = SimpleNamespace(time=100.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock.time)
    return clock


def test_seconds_before_a_checkpoint_count_and_those_lost_after_it_do_not(now: Any) -> None:
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


def log(**logs: float) -> None:
    FiniteFigures().on_log(None, SimpleNamespace(global_step=12), None, logs)


@pytest.mark.parametrize("name", ["loss", "eval_loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_an_error(name: str, value: float) -> None:
    with pytest.raises(NumericalError, match=f"the loss is {value} at step 12.*lower learning rate"):
        log(**{name: value})
    log(loss=1.0, grad_norm=math.inf, eval_loss=2.0)


@pytest.mark.parametrize(
    ("save", "stop", "expected"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_the_last_step_and_those_saved_are_logged(save: bool, stop: bool, expected: bool) -> None:
    control = SimpleNamespace(should_log=False, should_save=save, should_training_stop=stop)
    FiniteFigures().on_step_end(None, None, control)
    assert control.should_log is expected


def test_weights_that_are_no_numbers_are_an_error_where_they_were_trained() -> None:
    model = torch.nn.Linear(2, 2)
    check_weights(model, 3)
    model.bias.data[1] = math.inf
    with pytest.raises(NumericalError, match="bias holds what is no number at step 3"):
        check_weights(model, 3)
    model.bias.requires_grad_(False)
    check_weights(model, 3)


def test_the_mean_loss_weighs_entries_by_their_steps() -> None:
    history = [
        {"loss": 4.0, "step": 1},
        {"eval_loss": 9.0, "step": 1},
        {"loss": 1.0, "step": 4},
        {"loss": 2.0, "step": 5},
    ]
    assert mean_loss(history) == pytest.approx((4 + 3 * 1 + 2) / 5)
    assert mean_loss([]) == 0.0
