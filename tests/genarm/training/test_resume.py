"""A run that was stopped ends as one that was not, and a run that is over is left alone."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from training_cases import run_settings, write_pairs

from genarm.errors import InvalidArgumentError
from genarm.training import run, session, stopping
from genarm.training.progress import FiniteFigures
from genarm.training.run import train
from genarm.training.stopping import StopsAndSaves, TrainingInterrupted

KILLED_AT = 7
# Dropout, so that random states count; two epochs and a bit, so that the order of the second does.
CHANGES = {"max_steps": 10, "dropout": 0.2, "save_every": 3, "log_every": 3, "eval_share": 0.2, "eval_every": 4}


@pytest.fixture
def settings(base, data):
    return run_settings(base, data, **CHANGES)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "stopped"


def interrupt(settings, output, step):
    """Ends a run at a step as by Ctrl-C."""

    class Stops(FiniteFigures):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == step:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(session, "FiniteFigures", Stops)
        train(settings, output)
    assert not list(output.glob("*.safetensors"))


def resume(settings, output):
    """What the run says when it is started again, and its record."""
    said = []
    record = train(settings, output, say=said.append)
    return said, record


def weights(folder):
    return load_file(next(folder.glob("*model.safetensors")))


def assert_equal(first, second):
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_times(record):
    """TRL's own count of tokens starts over, too."""
    others = ("runtime", "per_second", "num_tokens")
    history = [
        {name: value for name, value in logs.items() if not any(other in name for other in others)}
        for logs in record["history"]
        if "train_runtime" not in logs
    ]
    return history, {name: value for name, value in record["metrics"].items() if name != "train_seconds"}


@pytest.mark.parametrize(
    "changes",
    [{}, {"activate": "response"}, {"rank": 0, "micro_batch_size": 2}, {"kind": "trajectory-rm"}, {"kind": "dpo"}],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(changes, settings, output, trained):
    folder, whole = trained(**CHANGES, **changes)
    settings = replace(settings, **changes)
    interrupt(settings, output, KILLED_AT)
    said, record = resume(settings, output)
    assert said[-1:] == ["resuming from checkpoint-6"]
    assert_equal(folder, output)
    assert without_times(record) == without_times(whole)
    assert json.loads((output / "training.json").read_text()) == json.loads(json.dumps(record))


def test_a_checkpoint_that_was_cut_short_is_passed_over(settings, output, trained):
    interrupt(settings, output, KILLED_AT)
    (output / "checkpoints" / "checkpoint-6" / "trainer_state.json").unlink()
    assert resume(settings, output)[0] == ["resuming from checkpoint-3"]
    assert_equal(trained(**CHANGES)[0], output)


def test_a_run_stopped_before_its_first_checkpoint_starts_over(settings, output, trained):
    interrupt(settings, output, 2)
    assert resume(settings, output)[0] == ["no checkpoint was kept: starting over"]
    assert_equal(trained(**CHANGES)[0], output)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_with_a_checkpoint_from_which_the_run_goes_on(
    number, settings, output, trained, monkeypatch
):
    said = []
    before = [signal.getsignal(each) for each in stopping.SIGNALS]

    class Kills(StopsAndSaves):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 4:
                os.kill(os.getpid(), number)

    with monkeypatch.context() as patch, pytest.raises(TrainingInterrupted, match=f"{number.name} after step 5"):
        patch.setattr(session, "StopsAndSaves", Kills)
        train(replace(settings, save_every=0), output, say=said.append)
    assert said == ["stopping after this step, with a checkpoint; once more stops at once, without one"]
    assert [signal.getsignal(each) for each in stopping.SIGNALS] == before
    assert resume(settings, output)[0] == ["resuming from checkpoint-5"]
    assert_equal(trained(**CHANGES)[0], output)


def test_seconds_are_those_of_all_parts(settings, output):
    interrupt(settings, output, 10)
    state = output / "checkpoints" / "checkpoint-9" / "trainer_state.json"
    saved = json.loads(state.read_text())
    saved["stateful_callbacks"]["TrainingClock"]["args"]["seconds"] = 1000.0
    state.write_text(json.dumps(saved))
    assert 1000 < train(settings, output)["metrics"]["train_seconds"] < 1030


def test_a_run_killed_outright_resumes(settings, output, trained):
    class Killed(FiniteFigures):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == KILLED_AT:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()  # and not a fresh interpreter, which would import torch for longer than it trains
    if not child:
        try:
            session.FiniteFigures = Killed
            train(settings, output)
        finally:
            os._exit(3)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert resume(settings, output)[0] == ["resuming from checkpoint-6"]
    assert_equal(trained(**CHANGES)[0], output)


@pytest.mark.parametrize("changes", [{"schedule": "constant"}, {"max_steps": None, "epochs": 2.0}])
def test_a_run_killed_after_its_last_step_only_measures_and_writes(changes, settings, output, trained):
    changes = {**CHANGES, "eval_every": 0, **changes}
    folder, whole = trained(**changes)

    def killed(*_):
        raise KeyboardInterrupt

    settings = replace(settings, **changes)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "_save", killed)
        train(settings, output)
    record = train(settings, output)
    assert_equal(folder, output)
    seconds = record["metrics"]["train_seconds"]
    assert without_times(record)[1] == without_times(whole)[1] and seconds > 0.2 * whole["metrics"]["train_seconds"]


def test_a_run_that_is_over_is_left_alone(data, settings, output, tmp_path, trained):
    folder, record = trained(**CHANGES)
    shutil.copytree(folder, output)
    before = {file: file.stat().st_mtime_ns for file in output.iterdir()}
    moved = str(shutil.copy(data, tmp_path / "moved.jsonl"))
    said, again = resume(replace(settings, log_every=7, data=moved), output)
    assert again == json.loads(json.dumps(record))
    assert said == [f"{output} is complete already"]
    assert {file: file.stat().st_mtime_ns for file in output.iterdir()} == before


def test_another_run_in_the_folder_is_refused_until_it_may_be_replaced(settings, output, tmp_path, trained):
    shutil.copytree(trained(**CHANGES)[0], output)
    kept = (output / "adapter_model.safetensors").read_bytes()
    other = write_pairs(tmp_path / "other.jsonl", 20, seed=1)
    for changes, reason in (({"beta": 0.7, "rank": 1}, "beta, rank"), ({"data": other}, "data")):
        with pytest.raises(InvalidArgumentError, match=f"another {reason}: choose another folder, or --overwrite it"):
            train(replace(settings, **changes), output)
    with pytest.raises(InvalidArgumentError, match="takes no such LoRA"):  # a run that cannot start replaces nothing
        train(replace(settings, target_modules=("attention",)), output, overwrite=True)
    assert (output / "adapter_model.safetensors").read_bytes() == kept
    record = train(replace(settings, rank=1), output, overwrite=True)
    assert record["settings"]["rank"] == 1
    assert {tensor.shape[0] for name, tensor in weights(output).items() if "lora_A" in name} == {1}
