"""`genarm info`: what runs here, and why."""

import json
import platform
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from genarm.cli import info
from genarm.embedded import BASE
from genarm.models.fused import flash as flash_attn


def test_it_prints_versions_devices_and_backends_for_readers_and_machines(cli):
    text = cli("info").text
    words = (torch.__version__, platform.python_version(), "transformers", "CUDA devices", "sampling", "flash-attn")
    assert all(word in text for word in words)
    found = json.loads(cli("info", "--json").text)
    assert set(found) == {"versions", "devices", "backends", "models"} and not found["models"]
    assert set(found["versions"]) == {"genarm", "python", "torch", "triton", "transformers", "peft"}
    assert all(backend["uses"] and backend["why"] for backend in found["backends"])
    fused, static, padded = ("fused decoder", "transformers' forward, static cache", "transformers' forward, padded")
    assert [(backend["part"], backend["uses"]) for backend in found["backends"] if "models" in backend["part"]] == [
        ("models: Llama, Mistral, Qwen2, Qwen3", fused),
        ("models: others", static),
        ("models: the rest", padded),
    ]


def test_it_says_which_base_each_reward_model_runs_on(cli):
    models = json.loads(cli("info", "--json", "--reward", "art").text)["models"]
    assert [(model["name"], model["path"]) for model in models] == [("base", "fused"), ("art", "fused")]
    assert [model["runs on"] for model in models] == [str(BASE), "the base"]
    assert "runs on" in cli("info", "--reward", "art:1").text


TORCH, IN_C, NOT_USED = "torch operations", "kernels in C", "not used"
FASTER = "the faster way"
MACHINES = [
    # devices, interpreted, kernels in C, flash-attn; what runs the sampling, a CPU's steps, prompts, CUDA graphs
    (0, False, False, None, [TORCH, TORCH, NOT_USED, NOT_USED], "not installed"),
    (0, False, True, "2.8", [f"{TORCH}, {IN_C}", IN_C, NOT_USED, NOT_USED], "2.8 is installed; no CUDA"),
    (0, False, None, None, [f"{TORCH}, {IN_C}", FASTER, NOT_USED, NOT_USED], "not installed"),
    (0, True, False, None, ["Triton interpreter", TORCH, NOT_USED, NOT_USED], "not installed"),
    (1, False, False, "2.8", ["Triton kernels", TORCH, "prompts", "one per step"], "2.8 is installed; bfloat16 and"),
]


@pytest.mark.parametrize(("devices", "interpreted", "in_c", "flash", "uses", "why"), MACHINES)
def test_backends_follow_the_machine(monkeypatch, capsys, devices, interpreted, in_c, flash, uses, why):
    properties = SimpleNamespace(name="Imaginary", total_memory=3 * 2**30, major=9, minor=0)
    monkeypatch.setattr(info, "DRIVERS", ["/dev/null"][:devices])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(info, "interpreted", lambda: interpreted)
    monkeypatch.setattr(info.native, "why", lambda: (in_c, "because"))
    monkeypatch.setattr(flash_attn, "why_not", lambda: None)
    monkeypatch.setattr(info, "_version", lambda package: flash if package == "flash-attn" else None)
    found = info.collect()
    assert found.devices == [info.Device("Imaginary", 3 * 2**30, "9.0")] * devices
    backends = {backend.part: backend for backend in found.backends}
    parts = ("sampling", "on a CPU", "flash-attn", "CUDA graphs")
    assert [backends[part].uses for part in parts] == uses and backends["flash-attn"].why.startswith(why)
    info.show(found, Console(width=200))
    text = capsys.readouterr().out
    assert "not installed" in text and ("Imaginary" in text and "3.0 GiB" in text) == bool(devices)
