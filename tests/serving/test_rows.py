"""The table of rows follows vLLM's batch, and keeps logits only while a row of it asks for what the models say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm import SamplingParams
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from genarm.errors import InvalidArgumentError
from genarm.serving import rows
from genarm.serving.model_logprobs import split
from genarm.serving.requests import class_name
from genarm.serving.settings import ServedGuidance, ServedReward

GUIDANCE = ServedGuidance((ServedReward("art", "a", 1.0), ServedReward("risk", "b", 0.0)))
V = 12
ASK = {"model_logprobs": True}


def table(tells: bool = True) -> Any:
    name = class_name(rows.GuidedRows, GUIDANCE, True, tells).partition(":")[2]
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=4),
        model_config=SimpleNamespace(get_vocab_size=lambda: V),
        compilation_config=SimpleNamespace(static_forward_context={}),
    )
    return getattr(rows, name)(config, torch.device("cpu"), False)


def asked(found: Any, logprobs: int | None = None, **numbers: Any) -> SamplingParams:
    """A request as it is when it has been validated."""
    params = SamplingParams(logprobs=logprobs, extra_args=numbers)
    type(found).validate_params(params)
    return params


def update(found: Any, size: int, added: Any = (), removed: Any = (), moved: Any = ()) -> None:
    news = [(row, params, [1], []) for row, params in added]
    found.update_state(BatchUpdate(batch_size=size, removed=list(removed), added=news, moved=list(moved)))


def drawn(tokens: list[int], columns: int) -> SamplerOutput:
    ids = torch.tensor([[token, *range(columns - 1)] for token in tokens], dtype=torch.int32)
    told = LogprobsTensors(ids, torch.full((len(tokens), columns), -1.0), torch.ones(len(tokens), dtype=torch.int64))
    return SamplerOutput(torch.tensor([tokens], dtype=torch.int32).T, told)


def logits(size: int) -> dict[int, torch.Tensor]:
    return {column: torch.randn(size, V + column) for column in range(3)}


def test_nothing_is_kept_or_changed_where_no_row_asks() -> None:
    found = table()
    update(found, 2, added=[(0, asked(found)), (1, asked(found, 2, **{"weights.art": 2.0}))])
    assert found.used == [True, True, False]
    found.keep(logits(2))
    output = drawn([3, 4], 3)
    told = output.logprobs_tensors
    assert found.report(output) is output and output.logprobs_tensors is told and found._logits == []


def test_who_asks_is_answered_wherever_its_row_goes() -> None:
    found = table()
    plain, asking = asked(found, 1), asked(found, 1, **ASK)
    update(found, 2, added=[(0, asking), (1, plain)])
    assert found.used == [True] * 3, "every model's logits are needed"
    update(found, 2, moved=[(0, 1, MoveDirectionality.SWAP)])
    parts = logits(2)
    found.keep(parts)
    output = found.report(drawn([3, 7], 2 + 4))
    steps = [
        {token: SimpleNamespace(logprob=value) for token, value in zip(ids, values, strict=True)}
        for ids, values in zip(
            output.logprobs_tensors.logprob_token_ids.tolist(), output.logprobs_tensors.logprobs.tolist(), strict=True
        )
    ]
    assert split(steps[:1], GUIDANCE.names)[1] is None
    told = split(steps[1:], GUIDANCE.names)[1]
    assert told is not None
    for name, part in zip(("base", "art", "risk"), parts.values(), strict=True):
        assert told[name] == pytest.approx([part[1, :V].log_softmax(0)[7].item()], abs=1e-6)
    update(found, 1, removed=[1])
    found.keep(logits(1))
    assert found._logits == [] and found.used == [True, True, False]


def test_where_no_sampler_tells_a_question_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="not built for this kind of device"):
        asked(table(tells=False), 0, **ASK)
    assert asked(table(tells=False), 0).logprobs == 0
