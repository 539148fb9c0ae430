"""`genarm train` as it is typed: exit statuses, one-line errors, and a result that the other commands take."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_cases import save_base, write_pairs

from genarm.cli import train_report
from genarm.errors import GenARMError
from genarm.preferences.reading import PairReading
from genarm.training.settings import TrainingSettings
from genarm.training.stopping import TrainingInterrupted

QUICK = "--device cpu --precision fp32 --batch-size 4 --max-steps 2 --rank 2 --eval-share 0 --log-every 1"
ROW = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("bases") / "small")


@pytest.fixture
def train(cli, base):
    """Runs the command on a file of pairs, into the folder joy."""
    data = write_pairs(cli.folder / "pairs.jsonl", 12)

    def run(*more, kind="arm", data=data):
        needed = ["--base", base, "--data", data, "--output", cli.folder / "joy"]
        return cli("train", kind, *needed, *QUICK.split(), *more)

    return run


def test_a_run_says_what_came_out_and_guides_by_its_folder_alone(cli, base, train):
    output, held_out = (
        cli.folder / "joy",
        ("--eval-data", str(cli.folder / "pairs.jsonl"), "--learning-rate", "0.02", "--max-steps", "30"),
    )
    found = train(*held_out)
    assert (found.status, found.text) == (0, "") and all(line.startswith("genarm: ") for line in found.errors), found
    assert found.errors[-1].startswith(f"genarm: {output}: 30 steps on 12 pairs in ")
    assert "of 12 held-out pairs ordered right (95% interval " in found.errors[-1]
    assert found.errors[-1].endswith(f"guide with --reward joy={output}:1.0")
    assert "warning: 12 of the 12 held-out pairs were trained on too" in found.errors[-2]
    record = json.loads((output / "training.json").read_text())
    assert (record["kind"], record["objective"], record["state"]) == ("arm", "joy", "complete")
    again = train(*held_out)
    assert again.status == 0 and [line for line in again.errors if "complete already" in line]
    for reward in (f"joy={output}:1.0", f"{output}:1.0"):
        options = ["--prompt", "About 3, say:", "--max-new-tokens", "3", "--device", "cpu"]
        guided = cli("generate", "--base", base, "--reward", reward, *options)
        assert guided.status == 0 and guided.text.startswith("About 3, say:")


def test_an_adapter_that_sleeps_on_prompts_is_trained_named_and_refused_where_it_cannot_be(cli, base, train):
    folder = cli.folder / "joy"
    found = train("--activate", "response")
    assert found.status == 0 and "genarm: the adapter sleeps on prompts up to their last token" in found.errors
    options = ["--base", base, "--reward", f"joy={folder}:1.0", "--device", "cpu"]
    models = json.loads(cli("info", *options, "--json").text)["models"]
    assert models[1]["awake from"] == "the prompt's last token" and "awake from" not in models[0]
    assert "asleep on prompts up to" in " ".join(cli("info", *options).text.split())
    guided = cli("generate", *options, "--prompt", "About 3, say:", "--max-new-tokens", "3")
    assert guided.status == 0 and guided.text.startswith("About 3, say:")
    merged = cli("generate", "--base", folder, "--prompt", "About 3", "--device", "cpu")
    assert merged.status == 1 and "the adapter as a reward model" in merged.line
    assert "another kind" in train("--activate", "response", kind="dpo").line
    assert "activate" in train("--activate", "prompt").line


def test_only_a_reward_model_that_guides_is_said_to():
    record: dict[str, Any] = {"kind": "dpo", "metrics": {"steps": 2, "train_seconds": 1.0}}
    record["data"] = {"train": {"pairs": 12}, "held out": {"pairs": 0}}
    assert train_report.summary(record, Path("joy")) == "joy: 2 steps on 12 pairs in 1.0 s"


def test_options_reach_the_settings(cli, monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr(train_report, "run", lambda *given: seen.append(given) or 0)
    options = (
        "--base some/base --data d --where topic=x --where n=1 --limit 9 --eval-data e --eval-share 0.2 --beta 0.7 "
        "--center-rewards 0.1 --rank 2 --alpha 4 --dropout 0.1 --target-module q_proj --target-module v_proj "
        "--epochs 2 --max-steps 2 --learning-rate 3e-3 --schedule linear --warmup 1 --weight-decay 0.2 --batch-size 4 "
        "--micro-batch-size 2 --max-length 64 --precision fp32 --gradient-checkpointing --seed 4 --device cpu "
        "--save-every 5,2m --log-every 6 --eval-every 7 --early-stopping 3 --report-to wandb --load-in-4bit "
        "--push-to-hub me/joy --trust-remote-code --objective joy --output out"
    )
    assert cli("train", "trajectory-rm", *options.split()).status == 0
    assert cli("train", "dpo", "--base", "some/base", "--data", "d", "--output", "out", "--overwrite").status == 0
    given = {
        "kind": "trajectory-rm",
        "base": "some/base",
        "data": ("d",),
        "where": {"topic": "x", "n": "1"},
        "limit": 9,
    }
    given |= {"eval_data": ("e",), "eval_share": 0.2, "beta": 0.7, "center_rewards": 0.1, "rank": 2, "alpha": 4}
    given |= {"dropout": 0.1, "target_modules": ("q_proj", "v_proj"), "epochs": 2.0, "max_steps": 2}
    given |= {"learning_rate": 3e-3, "schedule": "linear", "warmup": 1.0, "weight_decay": 0.2, "batch_size": 4}
    given |= {"micro_batch_size": 2, "max_length": 64, "precision": "fp32", "gradient_checkpointing": True, "seed": 4}
    given |= {"device": "cpu", "save_every": 5, "log_every": 6, "eval_every": 7, "trust_remote_code": True}
    given |= {"save_seconds": 120.0, "early_stopping": 3, "report_to": ("wandb",), "load_in_4bit": True}
    assert seen[0] == (TrainingSettings(**given, objective="joy"), Path("out"), False, "me/joy")
    assert seen[1] == (TrainingSettings("dpo", "some/base", ("d",), objective="out"), Path("out"), True, None)


def test_how_pairs_are_read_reaches_the_settings(cli, monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr(train_report, "run", lambda settings, *_: seen.append(settings) or 0)
    options = (
        "--data a --data b --data-weight 1 --data-weight 0.5 --eval-data c --eval-data d --map chosen=yes "
        "--map rejected=no --prompt-column question --prompt-template {system}\\n{prompt}\\t "
        "--response-marker \\nA: --preference safer "
        "--skip-bad-rows --output out"
    )
    assert cli("train", "arm", *options.split()).status == 0
    assert (seen[0].data, seen[0].data_weights, seen[0].eval_data) == (("a", "b"), (1.0, 0.5), ("c", "d"))
    columns = {"chosen": "yes", "rejected": "no", "prompt": "question"}
    template, marker = "{system}\n{prompt}\t", "\nA:"
    assert seen[0].reading == PairReading(columns, template, False, marker, "safer", True)
    assert cli("train", "arm", "--data", "a", "--chat", "--output", "out").status == 0 and seen[1].reading.chat
    for wrong in (["--chat", "--prompt-template", "{prompt}"], ["--map", "prompt=a", "--prompt-column", "b"]):
        found = cli("train", "arm", "--data", "a", "--output", "out", *wrong)
        assert found.status == 2 and "choose one of them" in found.errors[-1]


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        ("--data /no/where.jsonl", 2, "/no/where.jsonl: no such file: check the path"),
        ("--data BAD", 2, "bad.jsonl, row 2: rejected is missing"),
        ("--data CHAT", 2, "chat.jsonl, row 1: the pairs are chat messages and the tokenizer has no chat template"),
        ("--where topic", 2, "write COLUMN=VALUE"),
        ("--eval-share 0.999999", 2, "lower the share held out"),
        ("--schedule zigzag", 2, "schedule is 'zigzag'"),
        ("--max-steps 0", 2, "--max-steps"),
        ("--target-module brain", 2, "name other target modules"),
        ("--base EMPTY", 1, "tokenizer"),
        ("--base /no/where", 1, "/no/where: no such folder: check the path"),
        ("--base nobody/nothing", 1, "nobody/nothing: no such folder"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_leaves_no_folder(cli, train, options, status, reason):
    (cli.folder / "empty").mkdir()
    bad = cli.file("bad.jsonl", [ROW, {"prompt": "p", "chosen": "a"}])
    chat = cli.file("chat.jsonl", [{**ROW, "prompt": [{"role": "user", "content": "Hello"}]}])
    for name, path in (("EMPTY", cli.folder / "empty"), ("BAD", bad), ("CHAT", chat)):
        options = options.replace(name, str(path))
    train(*options.split()).assert_refused(status, reason)
    assert not (cli.folder / "joy").exists()


@pytest.mark.parametrize(
    ("error", "first", "status", "words"),
    [
        (TrainingInterrupted(15, 7), True, 143, "stopped by SIGTERM after step 7: the same command resumes there"),
        (KeyboardInterrupt(), True, 130, "interrupted: the same command resumes from the last checkpoint"),
        (MemoryError("all of it"), True, 1, "memory ran out (all of it): choose a smaller --micro-batch-size"),
        (torch.OutOfMemoryError("CUDA"), True, 1, "memory ran out (CUDA)"),
        (GenARMError("once is enough"), False, 1, ""),
    ],
)
def test_a_run_that_fails_says_so_once(train, monkeypatch, error, first, status, words):
    def failing(*_):
        raise error

    monkeypatch.setattr(train_report, "train", failing)
    monkeypatch.setattr(train_report, "launched", lambda _: type("Process", (), {"is_main_process": first}))
    found = train()
    assert found.status == status and len(found.errors) == first and words in "".join(found.errors)
