"""A step's bookkeeping on the device, against a plain loop in Python; and nothing in it that a graph could not hold."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from genarm.engine.draw import Draw
from genarm.engine.state import State, new_state
from genarm.request.guidance import Guidance
from genarm.request.options import Request
from genarm.request.prompts import Prompts, pad_left
from genarm_kernels import GuidedSample
from genarm_kernels.step.rules import EOS, ERROR, GOING_ON, STOP

V, PAD = 7, 0
PROMPTS = [torch.tensor([5, 4]), torch.tensor([3]), torch.tensor([4, 4, 4, 6]), torch.tensor([1, 2, 3])]


def guidance(batch: int, models: int = 2, **settings: Any) -> Guidance:
    return Guidance(torch.ones(batch, models), torch.arange(batch), **settings)


def request(
    tokens: int = 20, own: Guidance | None = None, prompts: list[torch.Tensor] = PROMPTS, **settings: Any
) -> Request:
    """Of two models."""
    stream = Prompts(pad_left(prompts, PAD)[0], prompts)
    fixed: dict[str, Any] = {"pad_id": PAD, "row_ids": list(range(len(prompts))), "errors": {}}
    fixed |= {"vocab_size": V, "prompt_ids": (V, V)} | settings
    return Request([stream, stream], guidance=own or guidance(len(prompts)), max_new_tokens=tokens, **fixed)


def make_state(tokens: int = 20, **settings: Any) -> State:
    return new_state(request(tokens, **settings))


def sample(tokens: list[int], status: list[int], step: int = 0) -> GuidedSample:
    values = torch.tensor(tokens) + step / 100.0
    return GuidedSample(
        torch.tensor(tokens), -values, torch.stack([values, 2 * values], 1), torch.tensor(status, dtype=torch.int32)
    )


class PlainRow:
    """What a row's tokens come to, one by one."""

    def __init__(self, eos: set[int], stops: list[tuple[int, ...]]) -> None:
        self.eos, self.stops = eos, stops
        self.tokens: list[int] = []
        self.reason = GOING_ON

    def take(self, token: int, status: int) -> None:
        if self.reason != GOING_ON:
            return
        if status:
            self.reason = ERROR
            return
        self.tokens.append(token)
        if token in self.eos:
            self.reason = EOS
        elif any(self.tokens[-len(stop) :] == list(stop) for stop in self.stops):
            self.reason = STOP


STOPS: list[list[tuple[int, ...]]] = [[], [(6,)], [(1, 2), (3, 3, 3)], [(1, 1, 1, 1, 2), (4, 5), (2, 4, 5), (6, 6)]]


@pytest.mark.parametrize("stops", STOPS, ids=str)
@pytest.mark.parametrize("eos", [set(), {2}, {1, 2, 3, 4, 6}], ids=str)
def test_random_draws_end_as_in_a_plain_loop(eos: set[int], stops: list[tuple[int, ...]]) -> None:
    chance = random.Random(str((sorted(eos), stops)))
    for _ in range(12):
        state = make_state(eos_ids=frozenset(eos), stop=tuple(stops))
        rows = [PlainRow(eos, stops) for _ in PROMPTS]
        few = chance.choice([2, 3, V])  # of few ids sequences come up often
        for step in range(20):
            tokens = [chance.randrange(V - few, V) for _ in rows]
            status = [int(chance.random() < 0.02) << chance.randrange(9) for _ in rows]
            state.advance(sample(tokens, status))
            for row, token, bad in zip(rows, tokens, status, strict=True):
                row.take(token, bad)
            assert state.report.tolist() == [tokens, [row.reason for row in rows], status]
            assert state.tokens.tolist() == tokens
            assert state.positions.tolist() == [len(prompt) + step + 1 for prompt in PROMPTS]
            assert state.step.tolist() == [step + 1]
        for row, generated in zip(rows, state.generated.tolist(), strict=True):
            assert generated == row.tokens + [PAD] * (20 - len(row.tokens))


def test_a_stop_sequence_begins_with_the_first_new_token() -> None:
    """The prompts' own tokens, and the padding of the buffers, are no part of a match."""
    state = make_state(stop=((4, 6), (4, 4, 4), (PAD, PAD), (PAD, 3), (2,)))
    state.advance(sample([6, 3, 4, 6], [0] * 4))  # rows 0 and 2 end in 4 and [4, 4, 4]
    assert state.reasons.tolist() == [GOING_ON] * 4
    state.advance(sample([4, 4, 4, 2], [0] * 4))
    assert state.reasons.tolist() == [GOING_ON, GOING_ON, GOING_ON, STOP]
    state.advance(sample([6, 6, 4, 5], [0] * 4))
    assert state.reasons.tolist() == [STOP] * 4


def test_eos_goes_before_stop_and_failure_before_both() -> None:
    state = make_state(eos_ids=frozenset({2}), stop=((2,), (3, 2), (3,)))
    state.advance(sample([2, 3, 2, 3], [0, 0, 1, 256]))
    assert state.reasons.tolist() == [EOS, STOP, ERROR, ERROR]
    assert state.generated[:, 0].tolist() == [2, 3, PAD, PAD]


def test_log_probs_stand_where_their_tokens_do() -> None:
    state = make_state(5, return_logprobs=True)
    assert state.logprobs is not None and state.model_logprobs is not None
    for step in range(3):
        state.advance(sample([1, 2, 3, 4], [0] * 4, step))
    values = torch.arange(1.0, 5.0)[:, None] + torch.arange(3) / 100.0
    assert torch.equal(state.logprobs[:, :3], -values)
    assert torch.equal(state.model_logprobs[:, :3], torch.stack([values, 2 * values], 2))
    assert bool(state.logprobs[:, 3:].isnan().all()) and bool(state.model_logprobs[:, 3:].isnan().all())


def test_seen_holds_prompts_and_draws() -> None:
    state = make_state(3, vocab_size=6, own=guidance(4, repetition_penalty=1.2))  # id 6 is beyond the vocabulary
    assert state.seen is not None
    assert [row.nonzero().flatten().tolist() for row in state.seen] == [[4, 5], [3], [4], [1, 2, 3]]
    state.advance(sample([0, 3, 5, 1], [0] * 4))
    assert [row.nonzero().flatten().tolist() for row in state.seen] == [[0, 4, 5], [3], [4, 5], [1, 2, 3]]


def test_idle_rows_have_finished() -> None:
    state = make_state(row_ids=[7, 8])
    state.advance(sample([1, 2, 3, 4], [0] * 4))
    assert state.reasons.tolist() == [GOING_ON, GOING_ON, EOS, EOS]
    assert state.generated[:, 0].tolist() == [1, 2, PAD, PAD]


def test_rows_that_a_criterion_stops_keep_an_earlier_reason() -> None:
    state = make_state(eos_ids=frozenset({2}))
    state.advance(sample([2, 3, 3, 3], [0, 0, 1, 0]))
    state.stop_rows(torch.tensor([True, True, True, False]))
    assert state.reasons.tolist() == [EOS, STOP, ERROR, GOING_ON] == state.report[1].tolist()


def test_a_state_takes_over_another_at_its_own_addresses() -> None:
    settings: dict[str, Any] = {"eos_ids": frozenset({2}), "stop": ((1, 2),), "return_logprobs": True}
    own, other = make_state(**settings), make_state(**settings | {"eos_ids": frozenset({3, 4}), "stop": ((5,), (6, 6))})
    assert own.shapes() == other.shapes()
    own.advance(sample([1, 2, 3, 4], [0] * 4))
    places = [tensor.data_ptr() for tensor in own._tensors()]
    own.load(other)
    assert [tensor.data_ptr() for tensor in own._tensors()] == places
    for mine, its in zip(own._tensors(), other._tensors(), strict=True):
        assert torch.equal(mine.nan_to_num(7), its.nan_to_num(7))


def test_shapes_tell_apart_what_one_captured_step_cannot_serve() -> None:
    states = [
        make_state(),
        make_state(21),
        make_state(eos_ids=frozenset(range(5))),
        make_state(stop=((1,),)),
        make_state(stop=((1, 2, 3, 4, 5),)),
        make_state(return_logprobs=True),
        make_state(pad_id=1),
        make_state(own=guidance(4, top_k=3)),
        make_state(own=guidance(4, top_k=torch.ones(4, dtype=torch.int64))),
        make_state(own=guidance(4, bias=torch.zeros(V))),
        make_state(own=guidance(4, bias=torch.zeros(4, V))),
        make_state(own=guidance(4, repetition_penalty=torch.ones(4))),
        make_state(prompts=PROMPTS[:3]),
    ]
    assert len({state.shapes() for state in states}) == len(states)
    assert make_state(eos_ids=frozenset({1})).shapes() == make_state(eos_ids=frozenset({2, 3, 4})).shapes()


def test_a_copy_shares_nothing() -> None:
    state = make_state(5, own=guidance(4, bias=torch.tensor(1.0).expand(V)))
    places = {tensor.untyped_storage().data_ptr() for tensor in state._tensors() if tensor.numel()}
    copied = state.copied()
    assert copied.shapes() == state.shapes()
    assert not places & {tensor.untyped_storage().data_ptr() for tensor in copied._tensors() if tensor.numel()}
    assert all(tensor.is_contiguous() for tensor in copied._tensors())


class OneDevice(TorchDispatchMode):
    """Notes operations, and refuses those that wait for a device, copy to it, or take a tensor from elsewhere."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.names: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.name()
        assert name not in {"aten::_local_scalar_dense", "aten::nonzero", "aten::lift_fresh"}, name
        out = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
        assert {tensor.device.type for tensor in tensors} <= {self.device}, f"{name} has tensors elsewhere"
        self.names.append(name)
        return out


@pytest.mark.parametrize("extras", [False, True])
def test_a_step_needs_nothing_from_the_host(extras: bool) -> None:
    """Traced on a device without values: a CUDA graph captures neither copies from the host nor waiting for it."""
    settings: dict[str, Any] = {"return_logprobs": True, "eos_ids": frozenset({2}), "stop": ((1, 2),)} if extras else {}
    with torch.device("meta"):
        bias, gate = (torch.zeros(V), torch.zeros(4, 2)) if extras else (None, None)
        own = guidance(4, top_p=torch.ones(4), bias=bias, gate=gate).in_tensors()
        state = make_state(9, own=own, prompts=[torch.zeros(3, dtype=torch.int64)] * 4, **settings)
        if extras:
            state.seen = torch.zeros(4, V, dtype=torch.bool)
        logits = [torch.zeros(4, V, dtype=torch.bfloat16) for _ in range(2)]
    with OneDevice("meta") as step, torch.no_grad():
        state.advance(Draw(state, V, extras, captured=True)(logits))
    assert "genarm_kernels::guided_sample" in step.names and not {"aten::index_copy_", "aten::index_put_"} & {
        *step.names
    }
