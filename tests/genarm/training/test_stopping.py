"""A run that is asked to stop, checkpoints by the clock, and the forms of `--save-every`."""

import signal
from types import SimpleNamespace

import pytest
import torch

from genarm.errors import InvalidArgumentError
from genarm.training import stopping
from genarm.training.stopping import StopsAndSaves, save_points

ALONE = SimpleNamespace(num_processes=1)


def control():
    return SimpleNamespace(should_save=False, should_training_stop=False)


def test_a_second_signal_stops_at_once():
    stops = StopsAndSaves(ALONE)
    stops._take(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stops._take(signal.SIGINT, None)


def test_a_checkpoint_is_due_when_its_time_has_passed(monkeypatch):
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now.time)
    stops, found = StopsAndSaves(ALONE, 60.0), []
    stops.on_train_begin(None, None, None)
    for seconds in (30, 29, 1, 1):
        now.time += seconds
        asked = control()
        stops.on_step_end(None, None, asked)
        found.append(asked.should_save)
        if asked.should_save:
            stops.on_save(None, None, None)
    stops.close()
    assert found == [False, False, True, False] and not asked.should_training_stop


def test_processes_do_what_one_of_them_was_asked():
    other = torch.tensor([[15, 0]])
    several = SimpleNamespace(num_processes=2, device="cpu", gather=lambda own: torch.cat([own, other]))
    stops, asked = StopsAndSaves(several), control()
    stops.on_step_end(None, None, asked)
    assert stops.asked == 15 and asked.should_save and asked.should_training_stop


def test_checkpoints_are_by_steps_by_time_or_by_both():
    for text, expected in (("500", (500, 0.0)), ("10m", (0, 600.0)), ("90s, 20", (20, 90.0)), ("0", (0, 0.0))):
        assert save_points(text) == expected
    assert save_points("1.5h") == (0, 5400.0) and save_points("2min") == (0, 120.0)
    for text in ("", "often", "1.5", "3,4", "1m,2s", "-1"):
        with pytest.raises(InvalidArgumentError, match=r"write a number of steps \(500\), a time"):
            save_points(text)
