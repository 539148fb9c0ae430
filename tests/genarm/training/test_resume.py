"""A run that was stopped ends as one that was not, and a run that is over is left alone."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_cases import run_settings, write_pairs

from genarm.errors import InvalidArgumentError
from genarm.training import run
from genarm.training.progress import FiniteFigures
from genarm.training.run import train
from genarm.training.settings import TrainingSettings

KILLED_AT = 7
# Dropout, so that random states count; two epochs and a bit, so that the order of the second does.
CHANGES: dict[str, Any] = {
    "max_steps": 10,
    "dropout": 0.2,
    "save_every": 3,
    "log_every": 2,
    "eval_share": 0.2,
    "eval_every": 4,
}


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_pairs(tmp_path / "pairs.jsonl", 20)


@pytest.fixture
def stopped_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs that begin in it end at a step as by Ctrl-C."""

    def stop(step: int) -> Any:
        class Stops(FiniteFigures):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step == step:
                    raise KeyboardInterrupt

        context = monkeypatch.context()
        context.__enter__().setattr(run, "FiniteFigures", Stops)
        return context

    return stop


def interrupt(settings: TrainingSettings, output: Path, step: int, stopped_at: Any) -> None:
    context = stopped_at(step)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(settings, output)
    finally:
        context.__exit__(None, None, None)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(iter(folder.glob("*model.safetensors"))))


def assert_equal(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_times(record: dict[str, Any]) -> Any:
    """TRL's own count of tokens starts over, too."""
    others = ("runtime", "per_second", "num_tokens")
    history = [
        {name: value for name, value in logs.items() if not any(other in name for other in others)}
        for logs in record["history"]
        if "train_runtime" not in logs
    ]
    return history, {name: value for name, value in record["metrics"].items() if name != "train_seconds"}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("arm", {}), ("arm", {"rank": 0, "micro_batch_size": 2}), ("trajectory-rm", {}), ("dpo", {})],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    kind: Any, changes: Any, base: str, data: str, tmp_path: Path, stopped_at: Any
) -> None:
    settings = run_settings(base, data, **{**CHANGES, "log_every": 3, "kind": kind, **changes})
    whole = train(settings, tmp_path / "whole")
    interrupt(settings, tmp_path / "stopped", KILLED_AT, stopped_at)
    assert not list((tmp_path / "stopped").glob("*.safetensors"))
    said: list[str] = []
    record = train(settings, tmp_path / "stopped", say=said.append)
    assert said == ["going on from checkpoint-6"]
    assert_equal(tmp_path / "whole", tmp_path / "stopped")
    assert without_times(record) == without_times(whole)
    assert json.loads((tmp_path / "stopped" / "training.json").read_text()) == json.loads(json.dumps(record))


def test_seconds_are_those_of_all_parts(base: str, data: str, tmp_path: Path, stopped_at: Any) -> None:
    settings = run_settings(base, data, **CHANGES)
    interrupt(settings, tmp_path / "out", 10, stopped_at)
    state = tmp_path / "out" / "checkpoints" / "checkpoint-9" / "trainer_state.json"
    saved = json.loads(state.read_text())
    saved["stateful_callbacks"]["TrainingClock"]["args"]["seconds"] = 1000.0
    state.write_text(json.dumps(saved))
    assert 1000 < train(settings, tmp_path / "out")["metrics"]["train_seconds"] < 1030


def test_a_checkpoint_that_was_cut_short_is_passed_over(base: str, data: str, tmp_path: Path, stopped_at: Any) -> None:
    settings = run_settings(base, data, **CHANGES)
    train(settings, tmp_path / "whole")
    interrupt(settings, tmp_path / "stopped", KILLED_AT, stopped_at)
    (tmp_path / "stopped" / "checkpoints" / "checkpoint-6" / "trainer_state.json").unlink()
    said: list[str] = []
    train(settings, tmp_path / "stopped", say=said.append)
    assert said == ["going on from checkpoint-3"]
    assert_equal(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_stopped_before_its_first_checkpoint_starts_over(
    base: str, data: str, tmp_path: Path, stopped_at: Any
) -> None:
    settings = run_settings(base, data, **CHANGES)
    train(settings, tmp_path / "whole")
    interrupt(settings, tmp_path / "stopped", 2, stopped_at)
    said: list[str] = []
    train(settings, tmp_path / "stopped", say=said.append)
    assert said == ["no checkpoint was kept: starting over"]
    assert_equal(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_killed_outright_goes_on(base: str, data: str, tmp_path: Path) -> None:
    settings = run_settings(base, data, **CHANGES)
    killed = f"""
import os, signal
from pathlib import Path
from genarm.training import run
from genarm.training.settings import TrainingSettings
from genarm.training.progress import FiniteFigures
class Killed(FiniteFigures):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == {KILLED_AT}:
            os.kill(os.getpid(), signal.SIGKILL)
run.FiniteFigures = Killed
run.train({settings!r}, Path({str(tmp_path / "stopped")!r}))
"""
    found = subprocess.run([sys.executable, "-c", killed], capture_output=True, timeout=120, check=False)
    assert found.returncode == -signal.SIGKILL, found.stderr.decode()
    said: list[str] = []
    train(settings, tmp_path / "stopped", say=said.append)
    assert said == ["going on from checkpoint-6"]
    train(settings, tmp_path / "whole")
    assert_equal(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("changes", [{"schedule": "constant"}, {"max_steps": None, "epochs": 2.0}])
def test_a_run_killed_after_its_last_step_only_measures_and_writes(
    changes: Any, base: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = run_settings(base, data, **{**CHANGES, "eval_every": 0, **changes})
    whole = train(settings, tmp_path / "whole")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "stopped")
    record = train(settings, tmp_path / "stopped")
    assert_equal(tmp_path / "whole", tmp_path / "stopped")
    seconds = record["metrics"]["train_seconds"]
    assert without_times(record)[1] == without_times(whole)[1] and seconds > 0.2 * whole["metrics"]["train_seconds"]


def test_a_run_that_is_over_is_left_alone(base: str, data: str, tmp_path: Path) -> None:
    settings = run_settings(base, data)
    record = train(settings, tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    said: list[str] = []
    moved = shutil.copy(data, tmp_path / "moved.jsonl")
    again = train(replace(settings, log_every=7, data=str(moved)), tmp_path / "out", say=said.append)
    assert again == json.loads(json.dumps(record))
    assert said == [f"{tmp_path / 'out'} is complete already"]
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == before


def test_another_run_in_the_folder_is_refused_until_it_may_be_replaced(base: str, data: str, tmp_path: Path) -> None:
    settings = run_settings(base, data)
    train(settings, tmp_path / "out")
    kept = weights(tmp_path / "out")
    other = write_pairs(tmp_path / "other.jsonl", 20, seed=1)
    for changes, reason in (({"beta": 0.7, "rank": 1}, "beta, rank"), ({"data": other}, "data")):
        with pytest.raises(InvalidArgumentError, match=f"another {reason}: choose another folder, or --overwrite it"):
            train(replace(settings, **changes), tmp_path / "out")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weights(tmp_path / "out").items())
    record = train(replace(settings, rank=1), tmp_path / "out", overwrite=True)
    assert record["settings"]["rank"] == 1
    assert {tensor.shape[0] for name, tensor in weights(tmp_path / "out").items() if "lora_A" in name} == {1}


def test_a_base_that_cannot_be_loaded_leaves_the_run_that_was_to_be_replaced(
    base: str, data: str, tmp_path: Path
) -> None:
    train(run_settings(base, data), tmp_path / "out")
    with pytest.raises(InvalidArgumentError, match="takes no such LoRA"):
        train(run_settings(base, data, target_modules=("attention",)), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
