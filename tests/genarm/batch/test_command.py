"""`genarm generate` from the outside: files in, files out, whatever happens in between."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from genarm import GuidedDecoder
from genarm.cli import generate as command
from genarm.runs.output import OutputFile

from .conftest import Bench

Reader = Callable[[Path], dict[Any, dict[str, Any]]]
ROWS = [{"id": f"row {index}", "prompt": "so it goes " * (1 + index % 4)} for index in range(10)]


@pytest.fixture
def output(bench: Bench) -> Path:
    return bench.folder / "out.jsonl"


def test_a_file_of_prompts_becomes_a_file_of_rows(bench: Bench, output: Path, read_rows: Reader) -> None:
    rows = [*ROWS, {"id": "own", "prompt": "x", "weights": {"second": 3}, "source": "elsewhere"}]
    source = bench.file("in.jsonl.gz", gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    found = bench.generate("--input", source, "--output", output)
    assert (found.status, found.text) == (0, "")
    assert found.line.startswith(f"genarm: {output}: 11 rows; 6")
    made = read_rows(output)
    assert made.keys() == {row["id"] for row in rows}
    assert made["own"]["weights"] == {"first": 1.0, "second": 3.0}
    assert all(1 <= row["token_count"] <= 6 and row["finish_reason"] in ("eos", "length") for row in made.values())
    assert set(made["row 1"]["logprob_sums"]) == {"base", "first", "second"}
    settings = json.loads((bench.folder / "out.jsonl.meta.json").read_text())["settings"]
    assert settings["base"] == str(bench.models.base) and settings["weights"] == {"first": 1.0, "second": -1.0}
    assert settings["dtype"] == "float32" and "batch_size" not in settings


def test_a_complete_output_is_left_alone_and_no_model_is_loaded(
    bench: Bench, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = bench.file("in.jsonl", ROWS[:2])
    bench.generate("--input", source, "--output", output)
    before = output.read_bytes()
    monkeypatch.setattr(GuidedDecoder, "from_pretrained", pytest.fail)
    again = bench.generate("--input", source, "--output", output, "--batch-size", 3)
    assert (again.status, again.line) == (0, f"genarm: {output} is complete already: 2 rows")
    assert output.read_bytes() == before


def test_a_torn_output_is_completed_with_the_rows_it_would_have_had(
    bench: Bench, output: Path, read_rows: Reader
) -> None:
    source = bench.file("in.jsonl", ROWS)
    bench.generate("--input", source, "--output", output)
    whole, expected = output.read_bytes(), read_rows(output)
    first = whole.index(b"\n") + 1
    for cut in (0, 1, first - 1, first, first + 1, len(whole) // 2, len(whole) - 1):
        output.write_bytes(whole[:cut])
        assert bench.generate("--input", source, "--output", output).status == 0
        assert read_rows(output) == expected


def test_a_killed_run_started_again_ends_with_exactly_one_row_a_prompt(
    bench: Bench, output: Path, read_rows: Reader
) -> None:
    source = bench.file("in.jsonl", [{"prompt": "word " * (1 + index % 7)} for index in range(40)])
    arguments = ["--input", str(source), "--max-new-tokens", "8", "--batch-size", "2"]
    code = "import sys; from genarm.cli.app import main; sys.exit(main())"
    line = ["generate", *bench.models.arguments, *bench.defaults, *arguments]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *line, "--output", str(output)],
        stderr=subprocess.PIPE,
        cwd=bench.folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if output.exists() and output.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    before = output.read_bytes()
    assert 3 <= before.count(b"\n") < 40
    assert bench.generate(*arguments, "--output", output).status == 0
    assert output.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    other = bench.folder / "uninterrupted.jsonl"
    assert bench.generate(*arguments, "--output", other).status == 0
    assert read_rows(output) == read_rows(other)
    assert set(read_rows(output)) == set(range(1, 41))


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    bench: Bench, output: Path, read_rows: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = bench.file("in.jsonl", ROWS)
    real, calls = GuidedDecoder.generate, []

    def generate(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(GuidedDecoder, "generate", generate)
    found = bench.generate("--input", source, "--output", output)
    assert found.status == 130
    assert found.line == f"genarm: interrupted: 4 of 10 rows are in {output}; the same command again goes on from there"
    assert len(read_rows(output)) == 4
    assert bench.generate("--input", source, "--output", output).status == 0
    assert len(read_rows(output)) == 10


def test_ctrl_c_before_the_first_row_leaves_nothing(
    bench: Bench, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(GuidedDecoder, "from_pretrained", load)
    found = bench.generate("--input", bench.file("in.txt", "a\n"), "--output", output)
    assert (found.status, found.line) == (130, "genarm: interrupted before the first row")
    assert bench.generate("--prompt", "a").status == 130
    assert bench.left() == ["in.txt"]


def test_failed_rows_are_kept_and_counted_on_every_run(bench: Bench, output: Path, read_rows: Reader) -> None:
    lines = [json.dumps({"prompt": "fine"}), json.dumps({"id": "long", "prompt": "x" * 600}), "{broken"]
    lines += [
        json.dumps({"id": "odd", "prompt": "x", "weights": {"third": 1}}),
        json.dumps({"id": "long", "prompt": ""}),
    ]
    source = bench.file("in.jsonl", "\n".join(lines))
    found = bench.generate("--input", source, "--output", output)
    assert found.status == 1
    assert found.errors[0].startswith(f"genarm: error: {source} line 3 is not JSON")
    assert found.errors[1].startswith(f"genarm: error: {source} line 5 has the id 'long' of line 2")
    assert found.errors[2].startswith("genarm: row 'odd' failed: weights names 'third', which is not loaded")
    assert found.errors[3].startswith("genarm: row 'long' failed: the base prompt has 601 tokens")
    assert found.errors[4].startswith(f"genarm: {output}: 3 rows, 2 of them failed; 6 tokens in")
    assert {key: row["finish_reason"] for key, row in read_rows(output).items()} == {
        1: "length",
        "long": "error",
        "odd": "error",
    }
    before = output.read_bytes()
    again = bench.generate("--input", source, "--output", output)
    assert again.status == 1 and output.read_bytes() == before
    assert again.errors[:2] == found.errors[:2]
    assert again.errors[2:] == [f"genarm: {output} is complete already: 3 rows, 2 of them failed"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--temperature", "0.5"], "temperature: 1.0 then, 0.5 now"),
        (["--chat"], "chat: False then, True now"),
        (["--dtype", "bfloat16"], "dtype: float32 then, bfloat16 now"),
        (["--reward", "third=FIRST"], "reward third: None then, "),
    ],
)
def test_an_output_of_other_settings_is_refused_by_name(
    bench: Bench, output: Path, changes: list[str], words: str
) -> None:
    source = bench.file("in.txt", "a\n")
    assert bench.generate("--input", source, "--output", output).status == 0
    before = output.read_bytes()
    changes = [change.replace("FIRST", str(bench.models.first)) for change in changes]
    found = bench.generate("--input", source, "--output", output, *changes)
    assert found.status == 1 and words in found.line and "--overwrite" in found.line
    assert output.read_bytes() == before


def test_an_output_of_another_input_or_of_retrained_models_is_refused(
    bench: Bench, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = bench.file("in.txt", "a\n")
    bench.generate("--input", source, "--output", output)
    source.write_text("b\n")
    assert "content of the input has changed" in bench.generate("--input", source, "--output", output).line
    assert bench.generate("--input", source, "--output", output, "--overwrite").status == 0
    monkeypatch.setattr(command, "fingerprint", lambda path: f"sha256:{path}, trained anew")
    assert "content of base has changed" in bench.generate("--input", source, "--output", output).line


def test_two_runs_do_not_write_to_one_output(bench: Bench, output: Path) -> None:
    source = bench.file("in.txt", "a\n")
    bench.generate("--input", source, "--output", output)
    other = OutputFile(output, {}, overwrite=True)
    other.inspect([])
    found = bench.generate("--input", source, "--output", output)
    other.close()
    assert found.status == 1 and "another genarm is writing to it" in found.line


def test_an_output_that_appears_while_the_models_load_is_left_alone(
    bench: Bench, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = command._load
    monkeypatch.setattr(command, "_load", lambda *arguments: (output.write_text("mine"), real(*arguments))[1])
    found = bench.generate("--prompt", "a", "--output", output)
    assert found.status == 1 and "made by another process meanwhile" in found.line
    assert output.read_text() == "mine" and bench.left() == ["out.jsonl"]


def test_a_prompt_is_shown_with_its_text_and_figures(bench: Bench) -> None:
    found = bench.generate("--prompt", "hello [bold]", "--prompt", "", "--chat", "--max-new-tokens", 2)
    assert found.status == 1
    assert found.text.startswith("hello [bold]")
    assert "[length · 2 tokens · log p: base −" in found.text and ", second −" in found.text
    assert found.errors[0] == "genarm: row 2 failed: the prompt is empty: give it some text"
    assert found.errors[1].startswith("genarm: 2 tokens in ")


def test_rows_of_an_input_without_an_output_go_to_the_standard_output(bench: Bench) -> None:
    found = bench.generate("--input", bench.file("in.txt", "one\ntwo\n"))
    assert sorted(json.loads(line)["prompt"] for line in found.text.splitlines()) == ["one", "two"]
    assert found.status == 0 and len(found.errors) == 1


def test_prompts_can_be_written_to_an_output_as_well(bench: Bench, output: Path, read_rows: Reader) -> None:
    assert bench.generate("--prompt", "one", "--prompt", "two", "--output", output).status == 0
    assert {key: row["prompt"] for key, row in read_rows(output).items()} == {1: "one", 2: "two"}


def test_the_base_alone_needs_no_reward_model(bench: Bench, output: Path, read_rows: Reader) -> None:
    arguments = ["--base", bench.models.base, "--prompt", "one", "--max-new-tokens", 3, "--output", output]
    assert bench.call("generate", *arguments).status == 0
    assert read_rows(output)[1]["weights"] == {} and set(read_rows(output)[1]["logprob_sums"]) == {"base"}


def test_a_reward_model_that_overflows_fails_every_row_by_name(bench: Bench, output: Path, read_rows: Reader) -> None:
    folder = bench.folder / "huge"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((bench.models.first / "adapter_config.json").read_bytes())
    weights = load_file(bench.models.first / "adapter_model.safetensors")
    save_file(
        {name: torch.full_like(value, 1e30) for name, value in weights.items()},
        folder / "adapter_model.safetensors",
    )
    found = bench.generate("--prompt", "a", "--prompt", "b", "--reward", f"third={folder}", "--output", output)
    assert found.status == 1
    assert all("the logits of 'third' hold NaN" in row["error"] for row in read_rows(output).values())


def test_prompts_are_shown_in_the_order_given(bench: Bench) -> None:
    found = bench.generate(
        "--prompt", "a", "--prompt", "bb bb", "--prompt", "ccc", "--batch-size", 1, "--max-new-tokens", 1
    )
    assert [line[0] for line in found.text.splitlines() if line[:1] in ("a", "b", "c")] == ["a", "b", "c"]


def test_text_cannot_drive_the_terminal(bench: Bench) -> None:
    found = bench.generate("--prompt", "a\x1b[31m\x9bb\u200d\n\u00a0c", "--max-new-tokens", 1)
    assert found.text.startswith("a\ufffd[31m\ufffdb\u200d\n\u00a0c")


def test_models_too_large_for_the_memory_are_one_line(
    bench: Bench, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate\n9 GiB")

    monkeypatch.setattr(GuidedDecoder, "from_pretrained", load)
    found = bench.generate("--prompt", "a", "--output", output)
    assert found.status == 1 and "the models do not fit into memory (tried to allocate 9 GiB)" in found.line
    assert bench.left() == []
