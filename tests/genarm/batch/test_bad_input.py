"""Bad command lines: one line that says what, where and what to do, and no file left behind."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from families import make_model, save_adapter

from genarm.cli import app, generate

from .conftest import Bench, Models, byte_tokenizer

# FOLDER stands for the folder that `material` fills.
BAD = [
    (["--prompt", "a", "--reward", "x"], 2, "--reward 'x' names no embedded reward model"),
    (["--prompt", "a", "--reward", "x=y:nan"], 2, "has the weight nan: weights are finite numbers"),
    (["--prompt", "a", "--reward", "first=y"], 2, "--reward names 'first' twice"),
    (["--prompt", "a", "--reward", "x=/nowhere"], 1, "/nowhere: no such folder"),
    (["--prompt", "a", "--base", "./nowhere"], 1, "./nowhere: no such folder"),
    (["--prompt", "a", "--reward", "x=FOLDER"], 1, "cannot be loaded as a causal language model"),
    (["--prompt", "a", "--base", "FOLDER/pickled"], 1, "pickled weights can run code when loaded"),
    (["--prompt", "a", "--base", "FOLDER/mute"], 2, "the base model has no tokenizer beside it"),
    (["--prompt", "a", "--base", "FOLDER/plain", "--chat"], 2, "has no chat template: leave --chat out"),
    (["--prompt", "a", "--reward", "x=FOLDER/foreign"], 1, "guidance needs one vocabulary"),
    (["--prompt", "a", "--reward", "x=FOLDER/wide"], 1, "this adapter was made for another architecture"),
    (["--prompt", "a", "--temperature", "nan"], 2, "Invalid value for '--temperature'"),
    (["--prompt", "a", "--top-p", "-1"], 2, "top_p is -1"),
    (["--prompt", "a", "--beta", "0"], 2, "beta is 0"),
    (["--prompt", "a", "--base-weight", "inf"], 2, "base_weight is inf"),
    (["--prompt", "a", "--dtype", "int8"], 2, "dtype is 'int8': pass 'auto', 'bfloat16', 'float16' or 'float32'"),
    (["--prompt", "a", "--device", "abacus"], 2, "device is 'abacus'"),
    (["--prompt", "a", "--input", "FOLDER/in.txt"], 2, "--prompt and --input were both given"),
    ([], 2, "there is nothing to generate from: give --prompt TEXT or --input FILE"),
    (["--input", "FOLDER/none"], 1, "none: no such file: check --input"),
    (["--input", "FOLDER/empty.txt"], 1, "empty.txt is empty"),
    (["--input", "FOLDER/latin.txt"], 1, "latin.txt line 1: byte 0xe9 is not UTF-8"),
    (["--input", "FOLDER/broken.jsonl"], 1, "broken.jsonl line 1 is not JSON"),
    (["--input", "FOLDER/in.txt", "--output", "FOLDER/in.txt"], 2, "--input and --output are both"),
    (["--prompt", "a", "--output", "FOLDER"], 1, "is a directory: name a file"),
    (["--prompt", "a", "--output", "FOLDER/none/out"], 1, "there is no directory"),
]


@pytest.fixture(scope="session")
def material(small: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs and models that are wrong in one way each."""
    folder = tmp_path_factory.mktemp("material")
    for name, content in (("in.txt", b"a\n"), ("empty.txt", b""), ("latin.txt", b"\xe9\n"), ("broken.jsonl", b"{\n")):
        (folder / name).write_bytes(content)
    for name, weights in (
        ("pickled", "pytorch_model.bin"),
        ("mute", "model.safetensors"),
        ("plain", "model.safetensors"),
    ):
        (folder / name).mkdir()
        (folder / name / "config.json").write_bytes((small.base / "config.json").read_bytes())
        (folder / name / weights).write_bytes((small.base / "model.safetensors").read_bytes())
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder / "plain")
    make_model("llama", vocab=1000).save_pretrained(folder / "foreign")
    save_adapter(make_model("llama", hidden=64), "llama", folder / "wide", seed=1)
    return folder


@pytest.mark.parametrize(("arguments", "status", "words"), BAD, ids=[words for _, _, words in BAD])
def test_bad_input_is_one_line_and_leaves_no_file(
    bench: Bench, material: Path, arguments: list[str], status: int, words: str
) -> None:
    before = sorted(material.rglob("*"))
    given = [argument.replace("FOLDER", str(material)) for argument in arguments]
    if "--output" not in arguments:
        given += ["--output", str(bench.folder / "out.jsonl")]
    found = bench.generate(*given)
    assert found.status == status
    assert found.line.startswith("genarm: error: ") and words in found.line
    assert bench.left() == [] and sorted(material.rglob("*")) == before


def test_a_prompt_that_is_no_text_is_one_line_and_leaves_nothing(bench: Bench) -> None:
    found = bench.generate("--prompt", "a\udcff", "--output", bench.folder / "out.jsonl")
    assert found.status == 2
    assert "is not UTF-8" in found.line
    assert not list(bench.folder.glob("out.jsonl*"))


def test_a_link_to_nowhere_is_named_for_what_it_is(bench: Bench) -> None:
    link = bench.folder / "link.jsonl"
    link.symlink_to(bench.folder / "gone.jsonl")
    found = bench.generate("--prompt", "x", "--output", link)
    assert found.status == 1
    assert "links to a file that is not there" in found.line


def test_a_folder_named_like_a_model_file_is_passed_over(bench: Bench) -> None:
    base = bench.folder / "base"
    shutil.copytree(bench.models.base, base)
    (base / "odd.json").mkdir()
    found = bench.generate("--base", base, "--prompt", "x", "--output", bench.folder / "out.jsonl")
    assert found.status == 0


def test_a_full_disk_behind_the_standard_output_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(generate, "generate", full)
    assert app.main(["generate", "--prompt", "x"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "No space left" in lines[0]
