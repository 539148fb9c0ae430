"""Streaming: the steps add up to what generate returns, and Hugging Face's streamers read along."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from families import make_model, random_prompts, word_tokenizer
from transformers import TextIteratorStreamer

from genarm import GuidedDecoder, InvalidArgumentError, NumericalError, PromptError, RewardNameError, StreamStep

PROMPTS = random_prompts([6, 11, 3], seed=1)


def make_decoder(max_batch_size: int = 8, engine: Any = "auto") -> GuidedDecoder:
    reward = make_model("llama", seed=2, hidden=16)
    return GuidedDecoder(make_model("llama", seed=1), {"r": reward}, max_batch_size=max_batch_size, engine=engine)


@pytest.mark.parametrize(("max_batch_size", "engine"), [(8, "auto"), (2, "hf")])
def test_the_steps_add_up_to_generate(max_batch_size: int, engine: str) -> None:
    decoder = make_decoder(max_batch_size, engine)
    rows: list[Any] = [PROMPTS[0], [], PROMPTS[1], PROMPTS[2]]
    settings: dict[str, Any] = {"max_new_tokens": 12, "seed": 3, "eos_token_id": list(range(3, 15)), "top_k": 40}
    expected = decoder.generate(rows, **settings)
    gathered = [torch.empty(0, dtype=torch.int64)] * 4
    finished = torch.zeros(4, dtype=torch.bool)
    for step in decoder.stream(rows, **settings):
        assert isinstance(step, StreamStep)
        assert len(step.tokens) == 4
        assert step.finished.shape == (4,) and step.finished.dtype == torch.bool
        assert bool(step.finished[1]), "the row that cannot run is finished from the start"
        assert not bool((finished & ~step.finished).any()), "finished rows stay finished"
        for row, tokens in enumerate(step.tokens):
            assert tokens.dtype == torch.int64 and tokens.dim() == 1
            assert not (len(tokens) and finished[row]), "finished rows get no more tokens"
        gathered = [torch.cat(pair) for pair in zip(gathered, step.tokens, strict=True)]
        finished = step.finished
    assert bool(finished.all())
    assert [row.tolist() for row in gathered] == [row.tolist() for row in expected.tokens]
    assert len({len(row) for row in gathered}) > 2


def test_a_step_comes_as_soon_as_it_is_decoded() -> None:
    decoder = make_decoder()
    calls: list[int] = []
    hook = decoder.base_model.register_forward_hook(lambda *_: calls.append(1))
    steps = decoder.stream(PROMPTS, max_new_tokens=5, eos_token_id=[])
    assert not calls, "nothing is decoded before it is asked for"
    for count, _ in enumerate(steps, start=1):
        assert len(calls) == count
    hook.remove()


def test_log_probabilities_can_be_read_while_they_come() -> None:
    decoder = make_decoder()
    settings: dict[str, Any] = {"max_new_tokens": 6, "seed": 3, "eos_token_id": list(range(3, 60))}
    whole = decoder.generate(PROMPTS, **settings, return_logprobs=True).model_logprobs
    running = decoder.start(decoder.prepare(PROMPTS, **settings, return_logprobs=True))
    assert running.live_logprobs() is None and whole is not None
    seen = 0
    for seen, _ in enumerate(running.steps(), start=1):
        live = running.live_logprobs()
        assert live is not None and torch.equal(live.nan_to_num(9.0), whole[:, :seen].nan_to_num(9.0))
    assert seen == whole.shape[1] > 1 and running.live_logprobs() is None
    plain = decoder.start(decoder.prepare(PROMPTS, **settings))
    assert [plain.live_logprobs() for _ in plain.steps()] == [None] * seen


def test_log_probabilities_are_not_read_of_rows_that_ended_or_lie_apart() -> None:
    settings: dict[str, Any] = {"max_new_tokens": 4, "eos_token_id": [], "return_logprobs": True}
    decoder = make_decoder(max_batch_size=2)
    running = decoder.start(decoder.prepare(PROMPTS[:2], **settings))
    with running.steps() as steps:
        next(steps)
        assert running.live_logprobs() is not None
    assert running.live_logprobs() is None, "the buffer is the next request's"
    chunks = replace(decoder.prepare(PROMPTS, **settings), halt=lambda ids: torch.zeros(len(ids), dtype=torch.bool))
    exchanged = decoder.prepare(PROMPTS, **settings)
    drafted = decoder.prepare(PROMPTS[:2], **settings, speculate="ngram")
    for apart in (chunks, exchanged, drafted):
        running = decoder.start(apart)
        assert {running.live_logprobs() for _ in running.steps()} == {None}


def test_errors_in_the_arguments_are_raised_before_the_first_step(decoder: GuidedDecoder) -> None:
    bad: list[tuple[type[Exception], dict[str, Any]]] = [
        (RewardNameError, {"weights": {"x": 1.0}}),
        (InvalidArgumentError, {"streamer": object()}),
        (PromptError, {"max_new_tokens": 5000}),
    ]
    for error, options in bad:
        with pytest.raises(error) as caught:
            decoder.stream(PROMPTS, **options)
        assert "\n" not in str(caught.value)


def test_a_streamer_takes_tokens_of_one_chunk(decoder: GuidedDecoder) -> None:
    with pytest.raises(InvalidArgumentError, match="streamer is a int"):
        decoder.generate(PROMPTS, max_new_tokens=2, streamer=5)
    with pytest.raises(InvalidArgumentError, match="raise max_batch_size from 2 to 3") as caught:
        make_decoder(2).generate(PROMPTS, max_new_tokens=2, streamer=Recorder())
    assert "\n" not in str(caught.value)


def test_an_iterator_streamer_is_read_in_another_thread(decoder: GuidedDecoder) -> None:
    tokenizer = word_tokenizer(unk_token="w0", eos_token="w2")
    settings: dict[str, Any] = {"max_new_tokens": 6, "seed": 3, "eos_token_id": []}
    expected = decoder.generate(PROMPTS[:1], **settings)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    thread = threading.Thread(target=decoder.generate, args=(PROMPTS[:1],), kwargs={"streamer": streamer, **settings})
    thread.start()
    assert "".join(streamer).split() == tokenizer.decode(expected.tokens[0]).split()
    thread.join()


class Recorder:
    """A streamer as transformers calls it: the prompts, then one tensor [B] a step, then the end."""

    def __init__(self) -> None:
        self.values: list[torch.Tensor] = []
        self.ends = 0

    def put(self, value: torch.Tensor) -> None:
        assert not self.ends
        self.values.append(value)

    def end(self) -> None:
        self.ends += 1


def test_a_streamer_gets_what_generate_of_transformers_gives_it() -> None:
    model = make_model("llama", seed=1)
    ids = torch.stack(random_prompts([6, 6, 6], seed=1))
    eos = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=[])[0, -1]
    model.generation_config.eos_token_id = [2, int(eos)]
    ours, theirs = Recorder(), Recorder()
    GuidedDecoder(model).generate(ids, temperature=0.0, max_new_tokens=8, streamer=ours)
    model.generate(ids, max_new_tokens=8, do_sample=False, streamer=theirs)
    assert ours.ends == theirs.ends == 1
    assert [value.tolist() for value in ours.values] == [value.tolist() for value in theirs.values]
    assert ours.values[-1][0] == 0, "a finished row gets padding"


def test_a_streamer_is_ended_when_decoding_fails() -> None:
    model = make_model("llama", seed=1)
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    recorder = Recorder()
    with pytest.raises(NumericalError):
        GuidedDecoder(model).generate(PROMPTS, max_new_tokens=4, streamer=recorder)
    assert recorder.ends == 1
    assert len(recorder.values) == 1, "the prompts, and no token"


def test_a_streamer_sees_drafts_token_by_token() -> None:
    model = make_model("llama", seed=1)
    ids = torch.stack(random_prompts([6, 6, 6], seed=1))
    settings: dict[str, Any] = {"max_new_tokens": 9, "seed": 3, "eos_token_id": list(range(3, 9))}
    decoder = GuidedDecoder(model, {"r": make_model("llama", seed=2, hidden=16)})
    plain, drafted = Recorder(), Recorder()
    decoder.generate(ids, streamer=plain, **settings)
    out = decoder.generate(ids, streamer=drafted, speculate={"draft": model, "gamma": 3}, **settings)
    assert out.stats.accepted and out.stats.steps < max(map(len, out.tokens))
    assert [value.tolist() for value in drafted.values] == [value.tolist() for value in plain.values]
    assert drafted.ends == 1 and len({len(row) for row in out.tokens}) > 1
