"""Rows into results: batches, seeds, text, and what becomes of rows that cannot be decoded."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from chat_families import BYTE_VOCAB, byte_tokenizer
from families import make_model

import genarm_kernels
from genarm import GenARMError, GuidedDecoder
from genarm.errors import NumericalError, RunError
from genarm.runs.encode import RowEncoder
from genarm.runs.rows import Row, row_key
from genarm.runs.run import Task, run

TEXTS = ["short", "a much longer prompt than the others", "", "middle sized", "x" * 300, "naïve café"]
ROWS = [Row(index, f"r{index}", text) for index, text in enumerate(TEXTS)]


@dataclass
class Memory:
    """A sink that keeps its rows."""

    finished: dict[Any, bool] = field(default_factory=dict)
    rows: dict[Any, dict[str, Any]] = field(default_factory=dict)
    syncs: int = 0

    def write(self, row):
        self.finished[row_key(row)] = row["finish_reason"] == "error"
        self.rows[row_key(row)] = dict(row)

    def sync(self):
        self.syncs += 1


def decoder(batch_size=2, **settings):
    base, first, second = (make_model("llama", seed=seed, vocab=BYTE_VOCAB) for seed in range(3))
    settings = {"max_length": 200, "tokenizer": byte_tokenizer(), **settings}
    return GuidedDecoder(base, {"a": first, "b": second}, max_batch_size=batch_size, **settings)


@pytest.fixture(scope="module")
def task():
    return Task(decoder(), {"a": 1.0, "b": 0.5}, seed=5, options={"max_new_tokens": 5})


def outcome(task, rows, **finished):
    sink = Memory(finished=dict(finished))
    reported: list[str] = []
    run(task, rows, sink, lambda result: reported.append(row_key(result)))
    assert reported == list(sink.rows)
    return sink


def texts(sink):
    return {key: row.get("text") for key, row in sink.rows.items()}


def test_a_result_says_what_was_drawn_and_what_each_model_thought_of_it(task):
    result = outcome(task, ROWS[:1]).rows["r0"]
    seed = genarm_kernels.row_seeds(5, 1)
    ids = [RowEncoder.of(task.decoder.tokenizer, False, None).encode(ROWS[0])]
    out = task.decoder.generate(ids, weights=task.weights, seed=seed, max_new_tokens=5, return_logprobs=True)
    sums = out.model_logprobs[0].double().sum(0).tolist()
    written = ["id", "prompt", "text", "weights", "token_count", "logprob_sum", "logprob_sums", "finish_reason"]
    assert list(result) == written
    assert result["logprob_sum"] == pytest.approx(float(out.logprobs[0].double().sum()), abs=1e-5)
    assert result["text"] == out.texts[0]
    assert result["weights"] == {"a": 1.0, "b": 0.5} and result["token_count"] == 5
    assert result["logprob_sums"] == pytest.approx({"base": sums[0], "a": sums[1], "b": sums[2]}, abs=1e-5)
    assert result["finish_reason"] == "length"


def test_a_result_depends_on_neither_batch_size_nor_which_rows_are_done(task):
    whole = outcome(task, ROWS)
    assert list(whole.rows) == [row.id for row in ROWS] and whole.syncs == 3  # batches of two, besides "" that fails
    by_length = outcome(replace(task, as_completed=True), ROWS)
    # the longest prompts first, and before them the rows that cannot be decoded
    assert list(by_length.rows) == ["r2", "r4", "r1", "r3", "r5", "r0"] and texts(by_length) == texts(whole)
    assert texts(outcome(replace(task, decoder=decoder(8)), ROWS)) == texts(whole)
    rest = texts(outcome(task, ROWS, r1=False, r5=False))
    assert rest == {key: text for key, text in texts(whole).items() if key not in ("r1", "r5")}
    assert texts(outcome(replace(task, seed=6), ROWS))["r0"] != texts(whole)["r0"]


def test_a_rows_own_weights_take_the_place_of_the_defaults_it_names(task):
    rows = [Row(0, "r0", "short", {"b": 2}), Row(0, "r1", "short", {"a": 1, "b": 0.5}), Row(0, "r2", "short")]
    found = outcome(task, [*rows, Row(1, "r3", "short")]).rows
    assert found["r0"]["weights"] == {"a": 1.0, "b": 2}
    assert found["r1"]["text"] == found["r2"]["text"] != found["r0"]["text"]
    assert found["r3"]["text"] != found["r2"]["text"]  # another line, another seed


def test_a_rows_own_settings_are_those_of_a_call_with_them(task):
    own = [
        {"temperature": 0.1},
        {"max_new_tokens": 2},
        {"top_k": 1, "beta": 2},
        {"stop": "e", "seed": 8},
        {"seed": 8},
        {},
    ]
    rows = [Row(index, index, "middle sized", settings=settings) for index, settings in enumerate(own)]
    found = outcome(replace(task, decoder=decoder(8)), rows).rows
    ids = RowEncoder.of(task.decoder.tokenizer, False, None).encode(rows[0])
    seeds = genarm_kernels.row_seeds(task.seed, len(rows))
    assert list(found) == list(range(len(rows)))
    for index, settings in enumerate(own):
        alone = {"weights": task.weights, "max_new_tokens": 5, "seed": seeds[index : index + 1], **settings}
        out = task.decoder.generate([ids], **alone)
        assert (found[index]["text"], found[index]["finish_reason"]) == (out.texts[0], out.finish_reasons[0])
    assert found[1]["token_count"] == 2 and found[4]["text"] != found[5]["text"]


def test_a_row_may_say_when_to_guide(task):
    gates = [{"entropy": 99.0}, {}, {"top_probability": 0.0}, {"entropy": 4.9}]
    rows = [Row(0, index, "middle", settings={"guide_when": gate}) for index, gate in enumerate(gates)]
    run_wide = replace(task, decoder=decoder(8), options={**task.options, "guide_when": {"entropy": 99.0}})
    found = outcome(run_wide, [*rows, Row(0, 4, "middle")]).rows
    counts = [found[row].get("guided_count") for row in range(5)]
    assert counts[0] == counts[2] == counts[4] == 0 and counts[1] == found[1]["token_count"]
    assert found[0]["text"] == found[2]["text"] == found[4]["text"] != found[1]["text"]
    assert "guided_count" not in outcome(task, [Row(0, 0, "middle")]).rows[0]
    wrong = [{"entropy": [1.0]}, [{"entropy": 1.0}], 2.0, {"entropie": 1.0}]
    failed = outcome(task, [Row(0, i, "middle", settings={"guide_when": gate}) for i, gate in enumerate(wrong)]).rows
    assert all("guide_when" in row["error"] for row in failed.values())


def test_samples_are_different_draws_that_stay_what_they_are(task):
    rows = [Row(index, "r", "short", sample=index + 1) for index in range(3)]
    found = outcome(task, rows).rows
    assert len({row["text"] for row in found.values()}) == 3 and list(found) == [("r", 1), ("r", 2), ("r", 3)]
    seeded = [replace(row, settings={"seed": 9}) for row in rows]
    out = task.decoder.generate("short", weights=task.weights, max_new_tokens=5, seed=9, num_return_sequences=3)
    assert [row["text"] for row in outcome(task, seeded).rows.values()] == out.texts


def test_messages_ids_and_systems_are_the_prompts_they_say(task):
    turn = {"role": "user", "content": "hi"}
    answer = {"role": "assistant", "content": "yes"}
    rows = [
        (Row(0, 1, [turn]), "<bos>[system]be kind[user]hi[assistant]"),
        (Row(1, 2, [{"role": "system", "content": "own"}, turn]), "<bos>[system]own[user]hi[assistant]"),
        (Row(2, 3, [turn, answer]), "<bos>[system]be kind[user]hi[assistant]yes"),
        (Row(3, 4, "hi"), "<bos>[system]be kind[user]hi[assistant]"),
        (Row(4, 5, "hi", columns={"system": "own"}), "<bos>[system]own[user]hi[assistant]"),
        (Row(5, 6, [70, 71]), None),
    ]
    tokenizer = task.decoder.tokenizer
    chat = RowEncoder.of(tokenizer, True, "be kind")
    for row, text in rows:
        ids = chat.encode(row)
        assert ids == row.prompt if text is None else tokenizer.decode(ids).startswith(text), tokenizer.decode(ids)
    assert tokenizer.decode(RowEncoder.of(tokenizer, False, None).encode(Row(0, 1, "hi"))) == "<bos>hi"
    tokenizer = byte_tokenizer()
    for template, words in (
        (
            "{{ raise_exception('no users here') }}",
            r"--chat: the chat template fails on messages of user .no users here.",
        ),
        (None, "has no chat template: leave --chat out"),
    ):
        tokenizer.chat_template = template
        with pytest.raises(GenARMError, match=words):
            RowEncoder.of(tokenizer, True, None)


BAD = [
    ("", None, "the prompt is empty: give it some text"),
    ("x" * 200, None, "the base prompt has 201 tokens, with 5 new ones over max_length = 200: shorten it"),
    ("x", {"c": 1.0}, "weights names 'c', which is not loaded: the reward models are a, b"),
    ("x", {"a": float("nan")}, "the weight of 'a' is nan: weights are finite numbers"),
    ("x", {"a": "1"}, "the weight of 'a' is '1': weights are finite numbers"),
    ("x", {"a": True}, "the weight of 'a' is True: weights are finite numbers"),
    ("x", {"a": 10**400}, "the weight of 'a' is 1000"),
    ("x", {"a": 1e300}, "the weight of 'a'"),
    ("x", [1, 2], "weights is [1, 2]: write an object of names and numbers"),
]


def test_a_row_that_cannot_be_decoded_says_why_and_the_rest_is_done(task):
    bad = [Row(3 + index, index, prompt, weights) for index, (prompt, weights, _) in enumerate(BAD)]
    found = outcome(task, [ROWS[0], *bad, ROWS[1]]).rows
    for key in ("r0", "r1"):
        assert found.pop(key)["finish_reason"] == "length"
    for index, (prompt, _, error) in enumerate(BAD):
        said = found[index].pop("error")
        assert found[index] == {"id": index, "prompt": prompt, "finish_reason": "error"}
        assert said.startswith(error) and "\n" not in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": "warm"}, "temperature is 'warm': write a number"),
        ({"temperature": -1}, "temperature is -1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
        ({"seed": 1.5}, "seed is"),
        ({"stop": 3}, "stop is 3"),
        ({"num_beams": 4}, "the row sets num_beams, which a row cannot do here: leave it out"),
        ({"max_tokens": 4}, "the row sets max_tokens, which a row cannot do here: write max_new_tokens"),
    ],
)
def test_a_setting_that_a_row_cannot_have_is_named(task, settings, words):
    found = outcome(task, [Row(0, 1, "short", settings=settings), Row(1, 2, "short")]).rows
    assert words in found[1]["error"] and found[2]["finish_reason"] == "length"


def test_a_batch_whose_every_row_fails_costs_no_other_batch_its_rows(task):
    rows = [Row(index, f"r{index}", "x" * (250 if index < 2 else 3)) for index in range(4)]
    assert outcome(task, rows).finished == {"r0": True, "r1": True, "r2": False, "r3": False}


def test_a_model_that_yields_nan_is_named_in_every_row(task):
    broken = decoder()
    with torch.no_grad():
        broken.models[2].module.lm_head.weight[5] = torch.nan
    found = outcome(replace(task, decoder=broken), ROWS[:2]).rows
    assert all("new token 0: the logits of 'b' hold NaN" in row["error"] for row in found.values())


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (MemoryError(), RunError, "a batch of 2 rows.*lower --batch-size and run the same command again"),
        (RuntimeError("can't allocate\nmemory: 9 GB"), RunError, "lower --batch-size and run the same command again"),
        (NumericalError("all wrong"), NumericalError, "all wrong"),
    ],
)
def test_an_error_that_is_no_rows_own_ends_the_run_and_keeps_what_is_done(task, monkeypatch, error, raised, words):
    real, calls = GuidedDecoder.generate, []

    def generate(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(GuidedDecoder, "generate", generate)
    sink = Memory()
    with pytest.raises(raised, match=words) as caught:
        run(task, ROWS, sink, lambda result: None)
    assert "\n" not in str(caught.value) and list(sink.rows) == ["r0", "r1"]


def test_a_call_that_is_wrong_for_every_row_is_raised_before_anything_is_written(task):
    with pytest.raises(GenARMError, match="top_p is nan"):
        replace(task, options={"top_p": float("nan")}).check()
    with pytest.raises(GenARMError, match="has no tokenizer"):
        replace(task, decoder=decoder(tokenizer=None)).check()


def test_a_sum_that_is_not_finite_is_null(task, monkeypatch):
    real = GuidedDecoder.generate

    def generate(*arguments, **options):
        out = real(*arguments, **options)
        out.model_logprobs[0, 1, 2] = -torch.inf
        return out

    monkeypatch.setattr(GuidedDecoder, "generate", generate)
    sums = outcome(task, ROWS[:1]).rows["r0"]["logprob_sums"]
    assert sums["b"] is None and sums["a"] < 0
