"""Where the C kernels come from: compiled once, for this processor, and left out with a reason where they cannot be."""

from __future__ import annotations

import os
import signal
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from genarm_kernels import guided_sample
from genarm_kernels.native import choice, compiler, library
from genarm_kernels.native.linear import rows_linear
from genarm_kernels.native.why import why

X, W = torch.ones(2, 4), torch.ones(3, 4)


@pytest.fixture
def anew(native_path: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is compiled yet; the folder it goes into."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "FLAGS", ("-O0", *compiler.FLAGS[:1], *compiler.FLAGS[2:]))
    library._library.cache_clear()
    yield tmp_path / "genarm" / "native"  # type: ignore[misc]
    library._library.cache_clear()


def test_it_is_compiled_once_and_found_by_the_next_process(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choice.library(torch.float32) is not None
    made = list(anew.iterdir())
    assert [path.suffix for path in made] == [".so"]
    assert anew.stat().st_mode & 0o777 == 0o700
    library._library.cache_clear()
    run = compiler._run
    monkeypatch.setattr(compiler, "_run", lambda command: run(command) if "--version" in command else pytest.fail())
    assert choice.library(torch.float32) is not None
    assert list(anew.iterdir()) == made


def test_another_source_or_command_is_another_library(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {compiler._fingerprint(["gcc", *compiler.FLAGS]), compiler._fingerprint(["gcc", "-DBFLOAT16"])}
    monkeypatch.setattr(compiler, "processor", lambda: "another")
    assert len(names | {compiler._fingerprint(["gcc", *compiler.FLAGS])}) == 3


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("CC", "no-such-compiler", "no-such-compiler"),
        ("CC", "false", "false ended with 1"),
    ],
)
def test_without_a_working_compiler_torch_is_used_and_it_is_said_once(
    anew: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(setting, value)
    with pytest.warns(UserWarning, match=f"CPU kernels are left out.*{reason}.*gcc"):
        assert torch.equal(rows_linear(X, W), torch.full((2, 3), 4.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows_linear(X, W)


def test_no_compiler_at_all_is_named(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match="no C compiler was found"):
        assert choice.library(torch.bfloat16) is None
    assert why() == (False, "no C compiler was found: install one with OpenMP, such as gcc")


def test_a_compiler_that_hangs_is_given_up(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> Any:
        raise subprocess.TimeoutExpired("gcc", 1)

    monkeypatch.setattr(compiler.subprocess, "run", hang)
    with pytest.warns(UserWarning, match="timed out"):
        assert choice.library(torch.float32) is None


def test_a_cache_that_cannot_be_written_is_done_without(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    anew.parent.parent.joinpath("file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(anew.parent.parent / "file"))
    assert choice.library(torch.float32) is not None


def test_a_library_cut_short_is_made_again(anew: Path) -> None:
    made = compiler.compiled(library.DEFINES[torch.float32])
    made.write_bytes(b"")
    assert choice.library(torch.float32) is not None
    assert made.stat().st_size > 0


def test_a_folder_that_others_may_write_is_not_trusted(anew: Path) -> None:
    anew.mkdir(parents=True)
    for folder in (anew, anew.parent):
        folder.chmod(0o777)
        assert compiler._folder() == compiler._own_folder() != anew
        folder.chmod(0o700)
    assert compiler._folder() == anew


def test_without_a_home_a_folder_of_its_own_will_do(anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        monkeypatch.setattr(compiler.Path, "home", nowhere)
        assert compiler._folder() == compiler._own_folder()


def test_a_forked_process_has_one_thread(native_path: None) -> None:
    """OpenMP's threads do not come along, and waiting for them would never end."""
    torch.set_num_threads(2)
    try:
        logits = [torch.zeros(2, 5000)]
        tokens = guided_sample(logits, [1.0]).tokens
        assert library.threads() == 2
        child = os.fork()
        if not child:
            signal.alarm(60)
            same = torch.equal(guided_sample(logits, [1.0]).tokens, tokens)
            os._exit(0 if same and library.threads() == 1 else 3)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(1)


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    capability = torch.backends.cpu.get_cpu_capability
    for value, processor, expected in (
        ("", "AVX2", None), ("", "AVX512", None), ("", "DEFAULT", False), ("0", "AVX2", False),
        ("1", "AVX512", True), ("1", "DEFAULT", False), ("maybe", "AVX512", None),
    ):  # fmt: skip
        monkeypatch.setenv("GENARM_NATIVE", value)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda processor=processor: processor)
        assert choice.wanted() is expected, (value, processor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", capability)


def test_other_dtypes_are_torch_s(native_path: None) -> None:
    assert choice.library(torch.float16) is None
    assert choice.library(torch.float64) is None
