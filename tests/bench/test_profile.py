"""The profiling commands: what they ask of the tools, and which steps the profiler sees."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from bench.decode_models import family
from bench.profiling import SKIPPED, decode
from genarm import GuidedDecoder

ROOT = Path(__file__).parents[2]


def profile(tool: str, path: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """bench/profile.sh with the tools that lie in ``path``."""
    environment = os.environ | {"PATH": f"{path}:/usr/bin:/bin", "OUT": str(path / "out"), **settings}
    command = [str(ROOT / "bench" / "profile.sh"), *filter(None, [tool]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Stand-ins for nsys and ncu that say how they were called."""
    for name in ("nsys", "ncu"):
        tool = tmp_path / name
        tool.write_text(f'#!/bin/sh\necho {name} "$@"\n')
        tool.chmod(0o755)
    return tmp_path


def test_the_tools_see_the_steps_and_write_their_tables(tools: Path) -> None:
    done = profile("nsys", tools, "--K", "3")
    taken, shown = done.stdout.splitlines()
    assert done.returncode == 0 and taken.endswith("-m bench.profiling decode --K 3")
    assert "--capture-range=cudaProfilerApi" in taken and "--cuda-graph-trace=node" in taken
    assert "--report cuda_gpu_kern_sum" in shown and shown.endswith("out/decode.nsys-rep")
    assert (tools / "out" / "decode-nsys.txt").read_text() == shown + "\n"
    done = profile("ncu", tools, KERNELS="attention", COUNT="5")
    taken, shown = done.stdout.splitlines()
    assert done.returncode == 0 and "--profile-from-start off" in taken
    assert "--kernel-name regex:attention --launch-count 5" in taken and "decode.ncu-rep" in shown


def test_without_the_tool_the_cure_is_named(tmp_path: Path) -> None:
    done = profile("nsys", tmp_path)
    assert done.returncode == 1 and "genarm bench --trace" in done.stderr
    done = profile("", tmp_path)
    assert done.returncode == 2 and "bench/profile.sh nsys" in done.stderr


def test_the_range_holds_the_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    models = family("tiny", torch.float32, torch.device("cpu"))
    decoder = GuidedDecoder(models.base, {"r0": models.adapter(0)})
    seen: list[str] = []
    stream = decoder.stream
    monkeypatch.setattr(
        decoder, "stream", lambda *these, **those: (seen.append("step") for _ in stream(*these, **those))
    )
    decode(decoder, torch.arange(3, 11)[None], 4, lambda: seen.append("begin"), lambda: seen.append("end"))
    # The prompt's and those skipped; the last step of the range is seen before its end.
    assert seen == ["step"] * (1 + SKIPPED) + ["begin"] + ["step"] * 4 + ["end"]
