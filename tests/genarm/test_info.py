"""`genarm info`: what runs here, and why."""

from __future__ import annotations

import json
import platform
from types import SimpleNamespace

import pytest
import torch

from genarm.cli import app, info


def test_it_prints_versions_devices_and_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["info"]) == 0
    text = capsys.readouterr().out
    for words in (
        torch.__version__,
        platform.python_version(),
        "transformers",
        "CUDA devices",
        "sampling",
        "flash-attn",
    ):
        assert words in text


def test_it_prints_json_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"versions", "devices", "backends"}
    assert set(found["versions"]) == {"genarm", "python", "torch", "triton", "transformers", "peft"}
    parts = [backend["part"].partition(":")[0] for backend in found["backends"]]
    assert parts == ["sampling", "on a CPU", "models", "models", "models", "flash-attn", "CUDA graphs"]
    assert all(backend["uses"] and backend["why"] for backend in found["backends"])


@pytest.mark.parametrize(
    ("devices", "interpreted", "uses"),
    [(0, False, "torch operations"), (1, False, "Triton kernels"), (0, True, "Triton interpreter")],
)
def test_the_sampling_backend_follows_the_machine(
    monkeypatch: pytest.MonkeyPatch, devices: int, interpreted: bool, uses: str
) -> None:
    properties = SimpleNamespace(name="Imaginary", total_memory=2**34, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(info, "interpreted", lambda: interpreted)
    monkeypatch.setattr(info.native, "why", lambda: (False, "because"))
    found = info.collect()
    assert found.devices == [info.Device("Imaginary", 2**34, "9.0")] * devices
    assert found.backends[0].uses == uses


def test_what_runs_on_a_cpu_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for runs, words in ((True, "kernels in C"), (False, "torch operations")):
        monkeypatch.setattr(info.native, "why", lambda runs=runs: (runs, "because"))
        assert uses("on a CPU") == {"on a CPU": words}


def test_a_device_is_shown_with_its_memory(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    found = info.Info({"peft": None}, [info.Device("Imaginary", 3 * 2**30, "9.0")], [])
    info.show(found, Console())
    text = capsys.readouterr().out
    assert "Imaginary" in text and "3.0 GiB" in text and "not installed" in text


DEVICE = info.Device("Imaginary", 2**34, "9.0")


def uses(part: str) -> dict[str, str]:
    return {backend.part: backend.uses for backend in info.collect().backends if backend.part.startswith(part)}


def test_every_path_of_a_model_is_named_and_the_families_are_those_that_fuse() -> None:
    found = uses("models")
    assert list(found.values()) == [
        "fused decoder",
        "transformers' forward, static cache",
        "transformers' forward, padded",
    ]
    assert next(iter(found)) == "models: Llama, Mistral, Qwen2, Qwen3"


@pytest.mark.parametrize(
    ("version", "devices", "words"),
    [
        (None, [DEVICE], ("not used", "not installed")),
        ("2.8", [], ("not used", "2.8 is installed; no CUDA device")),
        ("2.8", [DEVICE], ("prompts", "2.8 is installed; bfloat16 and float16")),
    ],
)
def test_flash_attention_reads_prompts_where_it_can(
    monkeypatch: pytest.MonkeyPatch, version: str | None, devices: list[info.Device], words: tuple[str, str]
) -> None:
    monkeypatch.setattr(info, "_version", lambda package: version if package == "flash-attn" else None)
    monkeypatch.setattr(info, "_devices", lambda: devices)
    backend = next(backend for backend in info.collect().backends if backend.part == "flash-attn")
    assert backend.uses == words[0] and backend.why.startswith(words[1])


def test_steps_are_captured_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for devices, found in (([], "not used"), ([DEVICE], "one a step")):
        monkeypatch.setattr(info, "_devices", lambda devices=devices: devices)
        assert uses("CUDA graphs") == {"CUDA graphs": found}
