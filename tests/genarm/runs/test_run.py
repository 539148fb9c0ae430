"""Rows into results: batches, seeds, chat, text, and what becomes of rows that cannot be decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from families import make_model

import genarm_kernels
from genarm import GenARMError, GuidedDecoder
from genarm.errors import NumericalError, RunError
from genarm.runs.rows import Row, continuation, encode
from genarm.runs.run import Task, run

from .conftest import VOCAB, byte_tokenizer

TEXTS = ["short", "a much longer prompt than the others", "", "middle sized", "x" * 300, "naïve café"]
ROWS = [Row(index, f"r{index}", text) for index, text in enumerate(TEXTS)]


@dataclass
class Memory:
    """A sink that keeps its rows."""

    finished: dict[Any, bool] = field(default_factory=dict)
    rows: dict[Any, dict[str, Any]] = field(default_factory=dict)
    order: list[Any] = field(default_factory=list)
    syncs: int = 0

    def write(self, row: Mapping[str, Any]) -> None:
        self.finished[row["id"]] = row["finish_reason"] == "error"
        self.rows[row["id"]] = dict(row)
        self.order.append(row["id"])

    def sync(self) -> None:
        self.syncs += 1


def decoder(batch_size: int = 2, **settings: Any) -> GuidedDecoder:
    rewards = {"a": make_model("llama", seed=1, vocab=VOCAB), "b": make_model("llama", seed=2, vocab=VOCAB)}
    settings = {"max_length": 200, "tokenizer": byte_tokenizer(), **settings}
    return GuidedDecoder(make_model("llama", vocab=VOCAB), rewards, max_batch_size=batch_size, **settings)


@pytest.fixture(scope="module")
def task() -> Task:
    return Task(decoder(), {"a": 1.0, "b": 0.5}, seed=5, options={"max_new_tokens": 5})


def outcome(task: Task, rows: list[Row], **finished: bool) -> Memory:
    sink = Memory(finished=dict(finished))
    reported: list[str] = []
    run(task, rows, sink, lambda result: reported.append(result["id"]))
    assert reported == sink.order
    return sink


def test_a_result_says_what_was_drawn_and_what_each_model_thought_of_it(task: Task) -> None:
    result = outcome(task, ROWS[:1]).rows["r0"]
    seed = genarm_kernels.row_seeds(5, 1)
    ids = encode(task.decoder.tokenizer, ["short"], False)
    out = task.decoder.generate(ids, weights=task.weights, seed=seed, max_new_tokens=5, return_logprobs=True)
    sums = out.model_logprobs[0].double().sum(0).tolist()
    assert list(result) == ["id", "prompt", "text", "weights", "token_count", "logprob_sums", "finish_reason"]
    assert result["text"] == continuation(task.decoder.tokenizer, ids[0], out.tokens[0].tolist())
    assert result["weights"] == {"a": 1.0, "b": 0.5} and result["token_count"] == 5
    assert result["logprob_sums"] == pytest.approx({"base": sums[0], "a": sums[1], "b": sums[2]}, abs=1e-5)
    assert result["finish_reason"] == "length"


def test_a_result_depends_on_neither_batch_size_nor_which_rows_are_done(task: Task) -> None:
    whole = outcome(task, ROWS).rows
    large = outcome(replace(task, decoder=decoder(8)), ROWS).rows
    rest = outcome(task, ROWS, r1=False, r5=False).rows
    assert {key: row.get("text") for key, row in large.items()} == {key: row.get("text") for key, row in whole.items()}
    assert rest.keys() == whole.keys() - {"r1", "r5"}
    assert all(rest[key].get("text") == whole[key].get("text") for key in rest)
    other = outcome(replace(task, seed=6), ROWS).rows
    assert other["r0"]["text"] != whole["r0"]["text"]


def test_the_longest_prompts_are_decoded_first_and_rows_that_cannot_be_come_before_them(task: Task) -> None:
    sink = outcome(task, ROWS)
    assert sink.order == ["r2", "r4", "r1", "r3", "r5", "r0"]
    assert sink.syncs == 4  # the unusable rows, and three batches of two


def test_a_rows_own_weights_take_the_place_of_the_defaults_it_names(task: Task) -> None:
    rows = [Row(0, "r0", "short", {"b": 2}), Row(0, "r1", "short", {"a": 1, "b": 0.5}), Row(0, "r2", "short")]
    found = outcome(task, rows).rows
    assert found["r0"]["weights"] == {"a": 1.0, "b": 2}
    assert found["r1"]["text"] == found["r2"]["text"] != found["r0"]["text"]


@pytest.mark.parametrize(
    ("prompt", "weights", "error"),
    [
        ("", None, "the prompt is empty: give it some text"),
        ("x" * 200, None, "the base prompt has 201 tokens, with 5 new ones over max_length = 200: shorten it"),
        ("x", {"c": 1.0}, "weights names 'c', which is not loaded: the reward models are a, b"),
        ("x", {"a": float("nan")}, "the weight of 'a' is nan: weights are finite numbers"),
        ("x", {"a": "1"}, "the weight of 'a' is '1': weights are finite numbers"),
        ("x", {"a": True}, "the weight of 'a' is True: weights are finite numbers"),
        ("x", {"a": 10**400}, "the weight of 'a' is 1000"),
        ("x", {"a": 1e300}, "the weight of 'a'"),
        ("x", [1, 2], "weights is [1, 2]: write an object of names and numbers"),
    ],
)
def test_a_row_that_cannot_be_decoded_says_why_and_the_rest_is_done(
    task: Task, prompt: str, weights: Any, error: str
) -> None:
    found = outcome(task, [ROWS[0], Row(1, "bad", prompt, weights), ROWS[1]]).rows
    bad = found.pop("bad")
    assert {key: bad[key] for key in ("id", "prompt", "finish_reason")} == {
        "id": "bad",
        "prompt": prompt,
        "finish_reason": "error",
    }
    assert bad["error"].startswith(error) and "\n" not in bad["error"]
    assert [row["finish_reason"] for row in found.values()] == ["length", "length"]


def test_a_batch_whose_every_row_fails_costs_no_other_batch_its_rows(task: Task) -> None:
    rows = [Row(index, f"r{index}", "x" * (250 if index < 2 else 3)) for index in range(4)]
    assert outcome(task, rows).finished == {"r0": True, "r1": True, "r2": False, "r3": False}


def test_a_model_that_yields_nan_is_named_in_every_row(task: Task) -> None:
    broken = decoder()
    with torch.no_grad():
        broken.models[2].module.lm_head.weight[5] = torch.nan
    found = outcome(replace(task, decoder=broken), ROWS[:2]).rows
    assert all("new token 0: the logits of 'b' hold NaN" in row["error"] for row in found.values())


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate\nmemory: 9 GB")])
def test_running_out_of_memory_ends_the_run_with_advice_and_keeps_what_is_done(
    task: Task, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing = decoder()
    real, calls = failing.generate, []

    def generate(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(failing, "generate", generate)
    sink = Memory()
    with pytest.raises(RunError, match="lower --batch-size and run the same command again") as caught:
        run(replace(task, decoder=failing), ROWS, sink, lambda result: None)
    assert "a batch of 2 rows" in str(caught.value) and "\n" not in str(caught.value)
    assert sink.order == ["r2", "r4", "r1"]


def test_a_call_that_is_wrong_for_every_row_is_raised_before_anything_is_written(task: Task) -> None:
    with pytest.raises(GenARMError, match="top_p is nan"):
        replace(task, options={"top_p": float("nan")}).check()
    with pytest.raises(GenARMError, match="has no tokenizer"):
        replace(task, decoder=decoder(tokenizer=None)).check()


def test_an_error_that_names_no_rows_is_passed_on(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = decoder()

    def generate(*_: Any, **__: Any) -> Any:
        raise NumericalError("all wrong")

    monkeypatch.setattr(failing, "generate", generate)
    with pytest.raises(NumericalError, match="all wrong"):
        run(replace(task, decoder=failing), ROWS, Memory(), lambda result: None)


def test_a_sum_that_is_not_finite_is_null(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = decoder()
    real = odd.generate

    def generate(*arguments: Any, **options: Any) -> Any:
        out = real(*arguments, **options)
        out.model_logprobs[0, 1, 2] = -torch.inf
        return out

    monkeypatch.setattr(odd, "generate", generate)
    sums = outcome(replace(task, decoder=odd), ROWS[:1]).rows["r0"]["logprob_sums"]
    assert sums["b"] is None and sums["a"] < 0


def test_chat_renders_one_user_turn_with_one_bos() -> None:
    tokenizer = byte_tokenizer()
    ids = encode(tokenizer, ["hi"], chat=True)[0]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids) == "<bos>[user]hi[assistant]"
    assert tokenizer.decode(encode(tokenizer, ["hi"], chat=False)[0]) == "<bos>hi"


def test_chat_without_a_usable_template_is_an_error_that_says_what_to_do() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no users here') }}"
    with pytest.raises(GenARMError, match=r"fails on a single user turn .no users here.: repair it"):
        encode(tokenizer, ["hi"], chat=True)
    tokenizer.chat_template = None
    with pytest.raises(GenARMError, match="has no chat template: leave --chat out"):
        encode(tokenizer, ["hi"], chat=True)


def test_text_is_what_the_new_tokens_add_to_the_prompt() -> None:
    tokenizer = byte_tokenizer()
    prompt = encode(tokenizer, ["one"], chat=False)[0]
    tokens = [*encode(tokenizer, [" two é"], chat=False)[0][1:], tokenizer.eos_token_id]
    assert continuation(tokenizer, prompt, tokens) == " two é"


def test_text_keeps_the_space_that_a_decoder_strips_at_the_start() -> None:
    class Strips:
        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(" ab"[index] for index in ids).lstrip(" ")

    assert continuation(Strips(), [1], [0, 2]) == " b"
    assert continuation(Strips(), [0], [1]) == "a"
