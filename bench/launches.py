"""Every launch of one decoding step, written down instead of run. Needs no GPU and no memory.

    python -m bench.launches            # how many per step, by model and settings; then those of one step

The engine's own code runs (captured step, session, network, draw, `State.advance`) on tensors without data that say
that they are a GPU's, so it takes the paths that it takes there, cut for the card that is asked for. A product of a
library counts as one launch, though it may take two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.jit import JITFunction

from bench.decode_models import config, shapes_only
from bench.tables import markdown
from genarm.engine import graphs
from genarm.engine.graphs import CapturedRun, CapturedRuns
from genarm.engine.state import new_state
from genarm.models.activation import Activation
from genarm.models.causal import make_model
from genarm.models.plan import Plan
from genarm.request.guidance import Guidance
from genarm.request.options import Request
from genarm.request.prompts import Prompts
from genarm_kernels import card

NOWHERE, GPU = torch.device("meta"), torch.device("cuda", 0)
# Operations of torch that make or describe a tensor and start nothing; views are known by their schema.
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
COMPUTE = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
NEW_TOKENS, WIDTH = 128, 512  # of a request, and of the buffers that a captured step has for it


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel: a Triton kernel with its arguments by name, or an operation of torch with its tensors."""

    name: str
    grid: tuple[int, ...]  # () where torch or a library chooses it
    arguments: Mapping[str, Any] = field(repr=False)
    kernel: Any = field(default=None, repr=False)

    @property
    def bytes(self) -> int:
        """Of all its tensors, each read or written once: of a cache or a table that is more than a step needs."""
        return sum(tensor.nbytes for tensors in self.tensors.values() for tensor in tensors)

    @property
    def tensors(self) -> dict[str, list[Tensor]]:
        """The tensors by argument, each where it comes first."""
        seen: set[int] = set()
        found: dict[str, list[Tensor]] = {}
        for name, value in self.arguments.items():
            for leaf in tree_leaves(value):
                if isinstance(leaf, Tensor) and leaf.numel() and id(leaf) not in seen:
                    seen.add(id(leaf))
                    found.setdefault(name, []).append(leaf)
        return found


class OnGPU(TorchFunctionMode):
    """Tensors without data, on torch's meta device, say that they are a GPU's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        getter = getattr(func, "__self__", None)
        if getter is torch.Tensor.is_cuda:
            return True
        if getter is torch.Tensor.device:
            return GPU
        if func is torch.Tensor.data_ptr:
            return _place(*args)
        if func is torch.equal:
            return args[0].shape == args[1].shape and _place(args[0]) == _place(args[1])
        kwargs = {name: _nowhere(value) for name, value in (kwargs or {}).items()}
        return func(*map(_nowhere, args), **kwargs)


def _place(tensor: Tensor) -> int:
    """An address of its own for each memory, a multiple of 16 where it begins."""
    return int(tensor.untyped_storage()._cdata) + tensor.storage_offset() * tensor.element_size()


def _nowhere(value: Any) -> Any:
    return NOWHERE if isinstance(value, torch.device) else value


class Recorder(TorchDispatchMode):
    """Adds what torch would launch to a list. The library's own operations are gone through."""

    def __init__(self, launches: list[Launch]) -> None:
        super().__init__()
        self._launches = launches

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "genarm_kernels":
            with self, OnGPU():
                return func.redispatch(COMPUTE, *args, **kwargs)
        result = func(*args, **kwargs)
        out = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if func.namespace == "aten" and _launches(func) and any(tensor.numel() for tensor in out):
            self._launches.append(Launch(func._opname, (), {"inputs": (args, kwargs), "outputs": out}))
        return result


def _launches(func: Any) -> bool:
    """Whether an operation of torch starts something: it is neither a view nor an allocation."""
    aliases = (result.alias_info for result in func._schema.returns)
    is_view = any(alias is not None and not alias.is_write for alias in aliases)
    return not is_view and func._opname not in ALLOCATIONS


@contextmanager
def on_gpu(own: card.Card = card.DEFAULT) -> Iterator[None]:
    """A block in which tensors that are made are this card's and hold nothing."""
    with (
        patch.object(card, "card_of", lambda device: own),
        patch("torch.cuda.device", lambda device: nullcontext()),
        torch.no_grad(),
        OnGPU(),
    ):
        yield


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """A block, inside ``on_gpu``, whose launches are added to the list instead of being run."""
    launches: list[Launch] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        arguments = dict(zip(self.arg_names, args, strict=False)) | keywords
        cut = grid(arguments) if callable(grid) else grid
        launches.append(Launch(self.fn.__name__, tuple(cut), arguments, self))

    with patch.object(JITFunction, "run", run), Recorder(launches):
        yield launches


def step(
    model: str,
    K: int,
    batch: int = 1,
    layers: int | None = None,
    context: int = 1024,
    on: card.Card = card.DEFAULT,
    rewards: str = "lora",
    filters: Mapping[str, Any] | None = None,
    **settings: Any,
) -> list[Launch]:
    """The launches of one captured step of a model of this shape and K reward models, in bfloat16.

    ``layers``: of the model, default as many as it has. ``rewards``: "lora", of rank 16 on the model, "activated", the
    same asleep on prompts, or "separate", models of its shape. ``filters``: fields of Guidance;
    ``settings``: of Request.
    """
    models = shapes_only(model, 0 if rewards == "separate" else K, layers)
    vocab = models.base.config.vocab_size
    with on_gpu(on):
        streams = [make_model("base", models.base)]
        asleep = Activation() if rewards == "activated" else None
        adapters = [replace(adapter, activation=asleep) for adapter in models.adapters]
        streams += [make_model(f"r{index}", models.base, adapter) for index, adapter in enumerate(adapters)]
        if rewards == "separate":
            streams += [make_model(f"r{index}", shapes_only(model, 0, layers).base) for index in range(K)]
        backbones = Plan(streams).backbones
        run = _made(backbones, _request(batch, K + 1, context, vocab, filters or {}, settings))
        launches: list[Launch] = []

        def capture(step: Any, pool: Any, stream: Any) -> Any:
            with recorded() as found:
                step()  # the first checks and keeps what every later one needs
                found.clear()
                step()
            launches.extend(found)
            return step

        with patch.object(graphs, "capture", capture):
            run.capture_once()
    return launches


class Runs(CapturedRuns):
    """What goes wrong is raised, where a user's step would run without a graph."""

    def note_capture(self, error: Exception | None) -> None:
        if error is not None:
            raise error


def _request(
    batch: int, models: int, context: int, vocab: int, filters: Mapping[str, Any], settings: Mapping[str, Any]
) -> Request:
    rows = [torch.zeros(context, dtype=torch.int64, device=GPU) for _ in range(batch)]
    weights, seeds = torch.ones(batch, models, device=GPU), torch.zeros(batch, dtype=torch.int64, device=GPU)
    guidance = Guidance(weights, seeds, **filters)
    fixed: dict[str, Any] = {"pad_id": 0, "row_ids": list(range(batch)), "errors": {}, "eos_ids": frozenset({1})}
    fixed |= {"vocab_size": vocab, "prompt_ids": (vocab,) * models}
    return Request(
        [Prompts(torch.stack(rows), rows)] * models,
        guidance=guidance.in_tensors(),
        max_new_tokens=NEW_TOKENS,
        **(fixed | dict(settings)),
    )


def _made(backbones: Any, request: Request) -> CapturedRun:
    """A captured run as `CapturedRuns` makes it, but for streams, memory pools and events."""
    state = new_state(request, WIDTH)
    length = request.longest + WIDTH
    given: list[Any] = [{} for _ in backbones]
    sessions = [backbone.session(request.batch, length) for backbone in backbones]
    run = CapturedRun(request, state, backbones, sessions, Runs((None, None)))
    run.attach(request, backbones, [backbone.tensors() for backbone in backbones], given)
    return run


@dataclass(frozen=True, slots=True)
class Count:
    """Launches of a step, by what repeats."""

    a_layer: int
    beside: int

    def of(self, layers: int) -> int:
        return layers * self.a_layer + self.beside


def count(model: str, K: int, batch: int = 1, **settings: Any) -> Count:
    """From models of one and two layers, which launch what one of all layers does."""
    one, two = (len(step(model, K, batch, layers, **settings)) for layers in (1, 2))
    return Count(two - one, 2 * one - two)


# What may be asked for beside a plain draw, by its name.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "top-k 50 + top-p 0.9": {"filters": {"top_k": 50, "top_p": 0.9}},
    "min-p 0.05": {"filters": {"min_p": 0.05}},
    "log-probs": {"return_logprobs": True},
    "a stop sequence": {"stop": ((1, 2),)},
    "repetition penalty 1.2": {"filters": {"repetition_penalty": 1.2}},
}


def main() -> None:
    rows = []
    for model in ("Llama-3.1-8B", "Llama-2-7B", "Qwen3-0.6B"):
        layers = config(model).num_hidden_layers
        for K, batch in ((0, 1), (1, 1), (3, 1), (3, 4), (3, 16)):
            found = count(model, K, batch)
            rows.append((model, K, batch, "plain", found.a_layer, found.beside, found.of(layers)))
    model = "Llama-3.1-8B"
    for name, settings in SETTINGS.items():
        found = count(model, 3, **settings)
        rows.append((model, 3, 1, name, found.a_layer, found.beside, found.of(config(model).num_hidden_layers)))
    head = ("model", "K", "B", "settings", "per layer", "beside", "launches per step")
    print(markdown(head, [[str(cell) for cell in row] for row in rows]))
    print(f"\nA step of {model} with one layer, K = 3, B = 1:\n")
    listed = [(one.name, " × ".join(map(str, one.grid)), f"{one.bytes / 1e6:.3f}") for one in step(model, 3, layers=1)]
    print(markdown(("launch", "grid", "MB of its tensors"), listed))


if __name__ == "__main__":
    main()
