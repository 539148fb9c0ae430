"""torch's deterministic mode: the same results, and no step writes to an index, at which a GPU would look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from captured_cases import OPTIONS, PROMPTS, assert_same
from families import make_model
from recorded import WRITES, record_on_cpu, stands_for_a_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from genarm import GuidedDecoder


class Writes(TorchDispatchMode):
    """Names the operations that write to an index."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation.name() in WRITES and not stands_for_a_kernel():
            self.seen.add(operation.name())
        return operation(*args, **(kwargs or {}))


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("engine", ["auto", "eager", "hf"])
def test_results_are_those_without(
    engine: Any, base: Any, rewards: dict[str, Any], eager: GuidedDecoder, monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    expected = eager.generate(PROMPTS[:3], **OPTIONS, repetition_penalty=1.2)
    request.getfixturevalue("deterministic")
    if engine == "auto":
        record_on_cpu(monkeypatch)
    decoder = GuidedDecoder(base, rewards, engine=engine)
    assert_same(decoder.generate(PROMPTS[:3], **OPTIONS, repetition_penalty=1.2), expected)
    assert decoder.engine.captures == (engine == "auto")


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(("family", "engine"), [("llama", "auto"), ("llama", "hf"), ("gemma3", "hf")])
def test_steps_and_copies_write_to_no_index(family: str, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record_on_cpu(monkeypatch)
    (backbone,) = GuidedDecoder(make_model(family, seed=1), engine=engine).engine.backbones
    sessions = [backbone.session(3, 40) for _ in range(2)]
    tokens, rows = torch.tensor([[5, 6], [7, 8], [9, 10]]), torch.tensor([[0, 1], [1, 2]])
    for session in sessions:
        session.prefill([PROMPTS[:3]])
        session.append(tokens)  # makes what is made at first use
    with Writes() as writes:
        sessions[0].copy(*rows)
        found = [*sessions[0].append(tokens), *sessions[0].append(tokens[:, :1])]
    assert not writes.seen
    torch.use_deterministic_algorithms(False)
    sessions[1].copy(*rows)
    expected = [*sessions[1].append(tokens), *sessions[1].append(tokens[:, :1])]
    torch.testing.assert_close(found, expected)
