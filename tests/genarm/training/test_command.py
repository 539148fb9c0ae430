"""`genarm train` as it is typed: exit statuses, one-line errors, and a result that the other commands take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_cases import write_pairs

from genarm.cli import train_report
from genarm.cli.app import main
from genarm.errors import GenARMError

ROW = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_pairs(tmp_path / "pairs.jsonl", 12)


def train(base: str, data: str, output: Path, *more: str, kind: str = "arm") -> int:
    quick = "--device cpu --precision fp32 --batch-size 4 --max-steps 2 --rank 2 --eval-share 0 --log-every 1"
    return main(["train", kind, "--base", base, "--data", data, "--output", str(output), *quick.split(), *more])


@pytest.fixture
def failing(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Status and message of a command that fails; it is one line, and no folder comes of it."""

    def run(data: str, *more: str, kind: str = "arm", base: str = base) -> tuple[int, str]:
        status = train(base, data, tmp_path / "out", *more, kind=kind)
        said = capsys.readouterr()
        lines = [line for line in said.err.splitlines() if not line.startswith("genarm: arm")]
        assert said.out == "" and len(lines) == 1 and lines[0].startswith("genarm: error: "), said.err
        assert not (tmp_path / "out").exists()
        return status, lines[0].removeprefix("genarm: error: ")

    return run


@pytest.mark.parametrize("kind", ["arm", "trajectory-rm", "dpo"])
def test_a_run_says_what_came_out(
    kind: str, base: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "joy"
    assert train(base, data, output, "--eval-data", data, kind=kind) == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert said.out == "" and all(line.startswith("genarm: ") for line in lines), said.err
    assert lines[-1].startswith(f"genarm: {output}: 2 steps on 12 pairs in ")
    assert "of 12 pairs held out ordered right" in lines[-1]
    assert lines[-1].endswith(f"guide with --reward joy={output}:1.0") == (kind == "arm")
    record = json.loads((output / "training.json").read_text())
    assert (record["kind"], record["objective"], record["state"]) == (kind, "joy", "complete")
    assert train(base, data, output, "--eval-data", data, kind=kind) == 0
    assert [line for line in capsys.readouterr().err.splitlines() if "complete already" in line]


def test_what_was_trained_guides_by_its_folder_alone(
    base: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(base, data, tmp_path / "out", "--objective", "joy", "--learning-rate", "0.05") == 0
    capsys.readouterr()
    for reward in (f"joy={tmp_path / 'out'}:1.0", f"{tmp_path / 'out'}:1.0"):
        options = ["--prompt", "About 3, say:", "--max-new-tokens", "3", "--device", "cpu"]
        assert main(["generate", "--base", base, "--reward", reward, *options]) == 0
        assert "joy −" in capsys.readouterr().out


def test_options_reach_the_settings(base: str, data: str, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in Path(data).read_text().splitlines()]
    marked = tmp_path / "marked.jsonl"
    marked.write_text("".join(json.dumps({**row, "topic": "x", "n": 1}) + "\n" for row in rows))
    options = (
        "--where topic=x --where n=1 --limit 9 --beta 0.7 --alpha 4 --dropout 0.1 --target-module q_proj "
        "--target-module v_proj --epochs 2 --learning-rate 3e-3 --schedule linear --warmup 1 --weight-decay 0.2 "
        "--micro-batch-size 2 --max-length 64 --gradient-checkpointing --seed 4"
    )
    assert train(base, str(marked), tmp_path / "out", *options.split()) == 0
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    expected = {
        "kind": "arm",
        "base": base,
        "where": {"topic": "x", "n": "1"},
        "limit": 9,
        "beta": 0.7,
        "rank": 2,
        "alpha": 4,
        "dropout": 0.1,
        "target_modules": ["q_proj", "v_proj"],
        "epochs": 2.0,
        "max_steps": 2,
        "learning_rate": 3e-3,
        "schedule": "linear",
        "warmup": 1.0,
        "weight_decay": 0.2,
        "batch_size": 4,
        "micro_batch_size": 2,
        "max_length": 64,
        "gradient_checkpointing": True,
        "seed": 4,
        "bf16": False,
    }
    assert {name: record["settings"][name] for name in expected} == expected
    assert record["data"]["train"]["pairs"] == 9


def test_data_that_is_not_there_is_named(failing: Any) -> None:
    assert failing("/no/where.jsonl") == (2, "/no/where.jsonl: no such file: check the path")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([ROW, {"prompt": "p", "chosen": "a"}], "row 2: rejected is missing"),
        ([ROW, ROW, {**ROW, "chosen": 7}], "row 3: chosen is of type int"),
        ([ROW, "text"], "row 2: a str, not an object"),
        ([], "is empty"),
    ],
)
def test_bad_rows_are_named_by_number(rows: list[Any], reason: str, failing: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, message = failing(str(path))
    assert status == 2 and reason in message and str(path) in message


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--where", "topic"], "write COLUMN=VALUE"),
        (["--where", "topic=sad"], "there is no column topic"),
        (["--eval-share", "1"], "eval share is 1.0"),
        (["--eval-share", "0.999999"], "lower the share held out"),
        (["--eval-data", "/no/where.jsonl"], "/no/where.jsonl: no such file"),
        (["--schedule", "zigzag"], "schedule is 'zigzag'"),
        (["--device", "tpu"], "device is 'tpu'"),
        (["--max-steps", "0"], "--max-steps"),
        (["--precision", "fp8"], "--precision"),
        (["--rank", "-1"], "--rank"),
        (["--objective", "a=b"], "objective is 'a=b'"),
        (["--target-module", "brain"], "name other target modules"),
        (["--center-rewards", "0.1"], "center rewards is of a trajectory RM's loss"),
        (["--batch-size", "5", "--micro-batch-size", "2"], "not a multiple"),
    ],
)
def test_options_that_cannot_be_are_refused(options: list[str], reason: str, failing: Any, data: str) -> None:
    status, message = failing(data, *options)
    assert status == 2 and reason in message


def test_a_method_that_there_is_not_is_refused(failing: Any, data: str) -> None:
    status, message = failing(data, kind="ppo")
    assert status == 2 and "trajectory-rm" in message


def test_a_base_that_is_no_model_is_refused(failing: Any, data: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, message = failing(data, base=str(tmp_path / "empty"))
    assert status == 1 and "tokenizer" in message
    status, message = failing(data, base="/no/where")
    assert status == 1 and message == "/no/where: no such folder: check the path"
    status, message = failing(data, base="nobody/nothing")
    assert status == 1 and message.startswith("nobody/nothing: no such folder") and "check the path" in message


def test_chat_messages_need_a_template(failing: Any, tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    turns = [{"role": "user", "content": "Hello"}]
    path.write_text(json.dumps({**ROW, "prompt": turns}) + "\n")
    status, message = failing(str(path))
    assert status == 2 and "pair 1" in message and "no chat template" in message


def test_without_trl_the_extra_is_named(failing: Any, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    status, message = failing(data, kind="dpo")
    assert status == 1 and "pip install 'genarm[train]'" in message


def test_a_loss_that_is_no_number_is_an_error(
    base: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(base, data, tmp_path / "out", "--learning-rate", "1e30", "--max-steps", "6") == 1
    assert "training has diverged" in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_ctrl_c_says_how_to_go_on(
    base: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_report, "train", interrupted)
    assert train(base, data, tmp_path / "out") == 130
    assert "interrupted: the same command again goes on" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError("all of it"), torch.OutOfMemoryError("CUDA out of memory")])
def test_memory_that_ran_out_is_one_line(
    error: Exception,
    base: str,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def exhausted(*_: Any) -> None:
        raise error

    monkeypatch.setattr(train_report, "train", exhausted)
    assert train(base, data, tmp_path / "out") == 1
    assert "memory ran out" in capsys.readouterr().err


def test_other_processes_leave_errors_to_the_first(
    base: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: Any) -> None:
        raise GenARMError("once is enough")

    monkeypatch.setattr(train_report, "train", failing)
    monkeypatch.setattr(train_report, "launched", lambda _: type("Second", (), {"is_main_process": False}))
    assert train(base, data, tmp_path / "out") == 1
    assert capsys.readouterr().err == ""


def test_help_comes_without_torch() -> None:
    code = (
        "import sys; from genarm.cli.app import main; status = main(['train', '--help']); "
        "assert not {'torch', 'transformers', 'trl', 'datasets'} & sys.modules.keys(); sys.exit(status)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    assert "arm|trajectory-rm|dpo" in found.stdout and "--center-rewards" in found.stdout
