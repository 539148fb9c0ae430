"""Settings every test runs under: one thread, nothing from the network, no third-party chatter.

And the three environments of the operations' tests: CPU tensors in torch, CPU tensors in the kernels
(TRITON_INTERPRET=1, before Python starts), and a GPU.
"""

import os
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest
import torch

from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.native import choice

torch.set_num_threads(1)
if INTERPRETED:
    import quick_interpreter

    quick_interpreter.hasten()

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


NEEDED = {
    "interpreter": (INTERPRETED, "NOT RUN: the kernels need TRITON_INTERPRET=1 in the environment; use `make test`"),
    "device": (torch.cuda.is_available(), "NOT RUN: this machine has no CUDA device"),
}
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.device))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The interpreter is for what runs kernels; a test whose environment is not there says so.

    The README's commands come first: begun last, they would keep one worker busy when the others are done.
    """
    items.sort(key=lambda item: item.path.name != "test_readme.py")
    if INTERPRETED:
        kept = [item for item in items if runs_interpreted(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept
    for item in items:
        if compiles(item):
            item.add_marker("compiled")
        for name, (there, reason) in NEEDED.items():
            if item.get_closest_marker(name) and not there:
                item.add_marker(pytest.mark.skip(reason=reason))
        if INTERPRETED:
            item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))


def compiles(item: pytest.Item) -> bool:
    """Whether its file asks for kernels that are compiled ahead of time."""
    names = vars(getattr(item, "module", item)).values()
    return any(getattr(value, "__module__", "") in ("bench.compiled", "compiled_launches") for value in names)


def runs_interpreted(item: pytest.Item) -> bool:
    asked = {"device", "cpu"} & {*getattr(item, "fixturenames", ())} and not item.get_closest_marker("device")
    return bool(asked) or item.get_closest_marker("interpreter") is not None


@pytest.fixture
def loud() -> Iterator[None]:
    """Training quiets transformers for the whole process: not for the tests after this one."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Every environment in turn. On a CPU an operation is in torch, but in the interpreter in its kernels."""
    if request.param == "cpu":
        request.getfixturevalue("torch_path")
    return str(request.param)


@pytest.fixture
def cpu(torch_path: None) -> str:
    """The same without a GPU."""
    return "cpu"


@pytest.fixture(params=DEVICES)
def fast_device(request: pytest.FixtureRequest) -> str:
    """The same for what the interpreter is too slow for."""
    if request.param == "cpu":
        request.getfixturevalue("torch_path")
    return str(request.param)


@pytest.fixture(params=[pytest.param("cpu", marks=pytest.mark.interpreter), DEVICES[1]])
def kernel_device(request: pytest.FixtureRequest) -> str:
    """Where the kernels themselves run: in the interpreter and on a GPU."""
    return str(request.param)


@pytest.fixture
def torch_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors go through torch's operations, whatever the processor."""
    monkeypatch.setattr(choice, "wanted", lambda: False)


@pytest.fixture
def native_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors go through the kernels in C, whatever the processor."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("NOT RUN: the kernels in C are for processors with AVX2")
    monkeypatch.setattr(choice, "wanted", lambda: True)
    if choice.library(torch.float32) is None:
        pytest.skip("NOT RUN: no C compiler with OpenMP")


@pytest.fixture(params=["torch", "native"])
def cpu_path(request: pytest.FixtureRequest) -> str:
    """Both, one after the other."""
    request.getfixturevalue(f"{request.param}_path")
    return str(request.param)
