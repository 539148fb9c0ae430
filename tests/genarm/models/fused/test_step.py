"""The real step on the fused decoder: everything it keeps stays where it is, and it never waits for a device."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import LLAMA_LINEARS, random_prompts, save_adapter
from fused_cases import build, kinds
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from genarm import GuidedDecoder
from genarm.engine import draw
from genarm.engine.run import Run
from genarm_kernels.sampling import ops

pytestmark = pytest.mark.usefixtures("cpu_path")
LENGTHS = {"even": [6, 6, 6], "uneven": [4, 9, 6]}
STEPS = 100
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"weights": [0.5, -0.2, 1.0], "beta": 0.7, "seed": 3},
    "filters": {"top_k": 20, "top_p": 0.9, "min_p": 0.01, "base_min_p": 0.001, "repetition_penalty": 1.1},
    "watched": {"return_logprobs": True, "stop": [[5, 6], [7]], "eos_token_id": [90, 91], "logit_bias": {3: 1.0}},
}


@contextmanager
def running(folder: Path, lengths: list[int], **options: Any) -> Iterator[Run]:
    """A base, two adapters on it and a model on weights of its own; prompts are read, the first tokens drawn."""
    base = build("qwen3")
    targets = [*LLAMA_LINEARS, "lm_head"], ["q_proj", "down_proj"]
    adapters = [save_adapter(base, "llama", folder / str(i), seed=4, r=3, target_modules=targets[i]) for i in range(2)]
    decoder = GuidedDecoder(base, [*adapters, build("mistral", seed=3)])
    assert kinds(decoder) == ["fused", "fused"]
    request = decoder.prepare(
        random_prompts(lengths, seed=1), max_new_tokens=STEPS + 4, **{"eos_token_id": [], **options}
    )
    with decoder.engine.run(request) as run:
        run.launch(0)
        yield run


class Waits(TorchDispatchMode):
    """Notes operations that would read a device's memory, write it from the host's, or take a size from it."""

    WAIT = frozenset(
        {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "lift_fresh", "lift_fresh_copy", "unique", "item"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        moved = name == "_to_copy" and (kwargs or {}).get("device") is not None
        masked = name in ("index", "index_put", "index_put_") and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        )
        if moved or masked or name in self.WAIT:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def test_the_check_sees_what_it_is_to_see() -> None:
    with Waits() as waits:
        torch.tensor(1).item()
        torch.ones(2).nonzero()
        torch.ones(2)[torch.ones(2) > 0]
        bool(torch.ones(()))
    assert waits.seen.keys() >= {"_local_scalar_dense", "nonzero", "lift_fresh", "index"}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_a_step_waits_for_nothing(
    lengths: list[int], options: dict[str, Any], cpu_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But where a CPU's own operations look at values: in the draw, which is one operation here as a GPU has it, and
    in torch's attention, which looks once per layer for NaN that it hid, and in uneven rows for what lies behind."""
    monkeypatch.setattr(draw, "ops", SimpleNamespace(sample=ops.guided_sample, settled=ops.settled))
    with running(tmp_path, lengths, **options) as run:
        run.launch(1)  # makes what a CPU makes on first use
        with Waits() as waits:
            run.launch(2)
            run.launch(3)
    looks = 2 * 2 * 2 * (1 + (len(set(lengths)) > 1)) * (cpu_path == "torch")  # steps, backbones, layers
    assert waits.seen == ({"_local_scalar_dense": looks} if looks else {})


def places(run: Run) -> list[tuple[int, tuple[int, ...]]]:
    """Where every tensor of the run's state and sessions is."""
    found: list[tuple[int, tuple[int, ...]]] = []

    def visit(one: Any, depth: int = 0) -> None:
        if isinstance(one, Tensor):
            found.append((one.data_ptr(), tuple(one.shape)))
        elif isinstance(one, list | tuple):
            for part in one:
                visit(part, depth)
        elif isinstance(one, dict):
            visit(list(one.values()), depth)
        elif depth < 6 and type(one).__module__.startswith("genarm"):
            visit(getattr(one, "__dict__", {}), depth + 1)
            visit([getattr(one, name) for name in getattr(one, "__slots__", ())], depth + 1)

    visit([run.state, run.sessions])
    return found


def live() -> tuple[int, int]:
    """Tensors there are, and their bytes."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return len(tensors), sum(storages.values())


@pytest.mark.parametrize(
    ("cpu_path", "lengths"),
    [("torch", LENGTHS["uneven"]), ("native", LENGTHS["even"])],
    indirect=["cpu_path"],
    ids=["torch-uneven", "native-even"],
)
def test_everything_stays_where_it_is_for_100_steps(lengths: list[int], tmp_path: Path) -> None:
    with running(tmp_path, lengths, **OPTIONS["watched"]) as run:
        for step in range(1, 4):  # what is made on first use is there
            run.launch(step)
        before, count = places(run), live()
        assert len(before) > 60
        for step in range(4, STEPS + 4):
            report = run.launch(step)
            assert report.data_ptr() == run.state.report.data_ptr()
        assert places(run) == before
        assert live() == count
        assert run.state.step.item() == STEPS + 4
        for session in run.sessions:
            assert session.lengths.tolist() == [[length + STEPS + 3 for length in lengths]] * session.streams  # type: ignore[attr-defined]
