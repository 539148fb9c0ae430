"""Settings every test runs under: one thread, nothing from the network, no third-party chatter."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest
import torch

from genarm_kernels.native import library

torch.set_num_threads(1)

THIRD_PARTY = (
    "ignore:fan_in_fan_out is set to False but the target module is `Conv1D`:UserWarning",
    "ignore:Could not find a config file in:UserWarning",  # peft looks for the base of models made in memory
    "ignore:Setting `save_embedding_layers`:UserWarning",
    "ignore:Model has `tie_word_embeddings=True` and a tied layer is part of the adapter:UserWarning",
    "ignore:Model with `tie_word_embeddings=True` and the tied_target_modules:UserWarning",
    "ignore:Already found a `peft_config` attribute:UserWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in THIRD_PARTY:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture
def torch_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors go through torch's operations, whatever the processor."""
    monkeypatch.setattr(library, "wanted", lambda: False)


@pytest.fixture
def native_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors go through the kernels in C, whatever the processor."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("NOT RUN: the kernels in C are for processors with AVX2")
    monkeypatch.setattr(library, "wanted", lambda: True)
    if library.library(torch.float32) is None:
        pytest.skip("NOT RUN: no C compiler with OpenMP")


@pytest.fixture(params=["torch", "native"])
def cpu_path(request: pytest.FixtureRequest) -> str:
    """Both, one after the other."""
    request.getfixturevalue(f"{request.param}_path")
    return str(request.param)
