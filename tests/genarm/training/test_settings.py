"""Settings: what no run could use is refused by name, and the rest reaches the Trainer."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_cases import run_settings
from transformers import TrainingArguments, get_scheduler

from genarm.errors import InvalidArgumentError
from genarm.training.checks import SCHEDULES, check
from genarm.training.settings import TrainingSettings

SETTINGS = TrainingSettings(kind="arm", base="base", data="pairs.jsonl")
KINDS = ("arm", "trajectory-rm", "dpo")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "ppo"}, "kind is 'ppo': expected one of arm, trajectory-rm, dpo"),
        ({"schedule": "cosin"}, "schedule is 'cosin': expected one of cosine"),
        ({"beta": 0.0}, "beta is 0.0: expected a number above 0"),
        ({"learning_rate": math.inf}, "learning rate is inf"),
        ({"micro_batch_size": 0}, "micro batch size is 0"),
        ({"rank": -1}, "rank is -1: expected 0 or more"),
        ({"eval_share": 1.0}, "eval share is 1.0: expected a share from 0 to below 1"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"objective": "base"}, "objective is 'base': choose another name"),
        ({"objective": "a=b"}, "objective is 'a=b'"),
        ({"objective": ""}, "objective is ''"),
        ({"center_rewards": 0.01}, "center rewards belongs to a trajectory RM's loss, and arm has another"),
        ({"eval_every": 10, "eval_share": 0.0}, "eval every is set, and nothing is held out"),
        ({"batch_size": 10, "micro_batch_size": 4}, "a batch of 10 pairs is not a multiple of 1 processes x 4 pairs"),
        ({"device": "cuda"}, "sees no CUDA device"),
    ],
)
def test_what_no_run_could_use_is_refused_by_name(changes, reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidArgumentError) as caught:
        check(replace(SETTINGS, **changes))
    assert reason in str(caught.value)


def test_the_defaults_are_settings_of_a_run_at_the_kind_s_own_rate():
    for kind in KINDS:
        check(replace(SETTINGS, kind=kind))
    assert [replace(SETTINGS, kind=kind).rate for kind in KINDS] == [5e-4, 5e-4, 5e-5]
    assert replace(SETTINGS, rank=0).rate == 1e-6
    assert replace(SETTINGS, rank=0, learning_rate=3e-3).rate == 3e-3


def test_a_batch_is_shared_among_processes_and_forward_passes(monkeypatch):
    for processes, batch, micro, expected in (
        ("1", 32, None, (32, 1)),
        ("1", 32, 4, (4, 8)),
        ("4", 32, None, (8, 1)),
        ("4", 32, 2, (2, 4)),
        ("2", 6, 3, (3, 1)),
    ):
        monkeypatch.setenv("WORLD_SIZE", processes)
        given = replace(SETTINGS, batch_size=batch, micro_batch_size=micro).arguments(Path("work"), False)
        assert (given["per_device_train_batch_size"], given["gradient_accumulation_steps"]) == expected
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InvalidArgumentError, match="3 processes x 10 pairs"):
        check(replace(SETTINGS, batch_size=32))


def test_every_schedule_is_one_that_the_trainer_can_make_with_its_warm_up(tmp_path):
    def arguments(**changes):
        return TrainingArguments(**run_settings("base", "data", **changes).arguments(tmp_path, False))

    for schedule in SCHEDULES:
        made = arguments(schedule=schedule, warmup=0.25)
        optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        get_scheduler(made.lr_scheduler_type, optimiser, made.get_warmup_steps(8), 8)
    for warmup, steps in ((0.0, 0), (0.1, 4), (1, 1), (20, 20)):
        assert arguments(warmup=warmup).get_warmup_steps(40) == steps


def test_settings_reach_the_trainer(tmp_path):
    changes = {"epochs": 2.5, "max_steps": None, "weight_decay": 0.03, "seed": 7}
    settings = run_settings("base", "data", **changes, save_every=11, log_every=3, eval_every=5)
    arguments = TrainingArguments(**settings.arguments(tmp_path, True))
    assert (arguments.num_train_epochs, arguments.max_steps, arguments.learning_rate) == (2.5, -1, 1e-2)
    assert (arguments.weight_decay, arguments.seed, arguments.data_seed) == (0.03, 7, 7)
    assert (arguments.save_steps, arguments.logging_steps, arguments.eval_steps) == (11, 3, 5)
    assert arguments.save_strategy == "steps" and arguments.eval_strategy == "steps"
    assert not arguments.logging_nan_inf_filter  # which would show the loss of earlier steps in place of a NaN
    assert TrainingArguments(**settings.arguments(tmp_path, False)).eval_strategy == "no"
    assert replace(settings, save_every=0).arguments(tmp_path, True)["save_strategy"] == "no"


def test_what_a_run_is_leaves_out_how_it_reports_and_settles_what_is_automatic():
    same = replace(SETTINGS, log_every=1, save_every=7, eval_every=3, learning_rate=5e-4)
    assert same.identity() == SETTINGS.identity()
    changes = {"beta": 0.2, "seed": 1, "rank": 4, "base": "other", "limit": 5, "target_modules": ("q",)}
    for name, value in changes.items():
        assert replace(SETTINGS, **{name: value}).identity() != SETTINGS.identity()
    bf16 = [replace(SETTINGS, precision=name, device="cpu").identity()["bf16"] for name in ("bf16", "fp32")]
    assert bf16 == [True, False]
