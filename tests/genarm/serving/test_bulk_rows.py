"""Rows of a run become requests of vLLM's with the meaning they have here, or say what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

import genarm_kernels
from genarm import embedded
from genarm.errors import GenARMError, InvalidArgumentError
from genarm.models.loading import load_tokenizer
from genarm.runs.encode import RowEncoder
from genarm.runs.rows import Row
from genarm.serving.bulk_rows import BulkRequest, BulkTask, result_of_answer
from genarm.serving.settings import ServedGuidance, ServedReward

GUIDANCE = ServedGuidance((ServedReward("art", "a", 0.5), ServedReward("risk", "r", 2.0)))
WEIGHTS = {"art": 0.5, "risk": 2.0}


def task(**changes: Any) -> BulkTask:
    encoder = RowEncoder.of(load_tokenizer(embedded.BASE), chat=False, system=None)
    told = {"seed": 3, "max_length": 64, "vocab_size": 4096, "weights": WEIGHTS}
    return BulkTask(guidance=GUIDANCE, encoder=encoder, **{**told, "options": {"max_new_tokens": 8}, **changes})


def only(own: BulkTask, row: Row) -> BulkRequest:
    found = own.requests([row])[0]
    assert isinstance(found, BulkRequest), found
    return found


def test_a_request_has_the_runs_settings_and_its_rows_seed() -> None:
    own = task(options={"temperature": 0.7, "top_k": 5, "max_new_tokens": 8, "stop": ["\n"], "beta": 2.0})
    found = only(own, Row(4, "x", "I like"))
    assert found.ids == load_tokenizer(embedded.BASE)("I like")["input_ids"]
    assert found.params == {
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": 8,
        "stop": ["\n"],
        "stop_token_ids": [],
        "seed": int(genarm_kernels.row_seeds(3, 5)[4]),
        "extra_args": {"weights.art": 0.5, "weights.risk": 2.0, "beta": 2.0, "base_weight": 1.0},
    }


def test_a_rows_own_settings_and_weights_take_the_place_of_the_runs() -> None:
    row = Row(
        0, 1, "I like", weights={"art": -1.0}, settings={"temperature": 0, "stop": ["a", [7]], "max_new_tokens": 3}
    )
    params = only(task(), row).params
    assert "seed" not in params  # greedy: nothing is drawn
    assert (params["stop"], params["stop_token_ids"], params["max_tokens"]) == (["a"], [7], 3)
    assert params["extra_args"] == {"weights.art": -1.0, "weights.risk": 2.0, "beta": 1.0, "base_weight": 1.0}
    seeded = Row(0, 1, "I like", settings={"seed": 9}, sample=2)
    assert only(task(), seeded).params["seed"] == int(genarm_kernels.row_seeds(9, 2)[1])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Row(0, 1, ""), "the prompt is empty"),
        (Row(0, 1, [5, 4096]), "outside the vocabulary"),
        (Row(0, 1, [5] * 60), "over max_length = 64"),
        (Row(0, 1, "a", weights={"tree": 1.0}), "no reward model has this name"),
        (Row(0, 1, "a", weights={"art": "much"}), "finite number"),
        (Row(0, 1, "a", weights=[1.0]), "object of names"),
        (Row(0, 1, "a", settings={"num_beams": 2}), "cannot do here"),
        (Row(0, 1, "a", settings={"top_p": 0}), "above 0 and at most 1"),
        (Row(0, 1, "a", settings={"temperature": True}), "0 or above"),
        (Row(0, 1, "a", settings={"base_min_p": 0.1}), "vLLM has no such setting"),
        (Row(0, 1, "a", settings={"guide_when": {"entropy": 1.0}}), "vLLM has no such setting"),
        (Row(0, 1, "a", settings={"stop": [[1, 2]]}), "no sequences of ids"),
        (Row(0, 1, "a", settings={"stop": [""]}), "not empty"),
        (Row(0, 1, "a", settings={"beta": -1.0}), "above 0"),
    ],
)
def test_a_row_that_cannot_be_decoded_says_why_and_costs_no_other(row: Row, message: str) -> None:
    found = task().requests([row, Row(1, 2, "I like")])
    assert isinstance(found[0], GenARMError) and message in str(found[0])
    assert isinstance(found[1], BulkRequest)


@pytest.mark.parametrize("options", [{"base_top_p": 0.5}, {"particles": 4}, {"speculate": "ngram"}, {"top_p": 0.0}])
def test_options_of_a_run_that_no_row_could_have_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        task(options=options).check()
    task(options={"base_top_p": 1.0, "base_min_p": 0.0}).check()


@pytest.mark.parametrize(
    ("finish", "stop", "reason"),
    [("length", None, "length"), ("stop", None, "eos"), ("stop", 1, "eos"), ("stop", 7, "stop"), ("stop", "a", "stop")],
)
def test_an_answer_is_a_row_of_the_output(finish: str, stop: Any, reason: str) -> None:
    row = Row(0, "x", "I like", settings={"stop": ["a", [7]]}, columns={"kept": 1})
    request = only(task(), row)
    answer = {"text": "art", "tokens": [3, 4], "finish_reason": finish, "stop_reason": stop}
    assert result_of_answer(row, request, answer) == {
        "id": "x",
        "prompt": "I like",
        "kept": 1,
        "text": "art",
        "weights": WEIGHTS,
        "token_count": 2,
        "finish_reason": reason,
    }
    assert result_of_answer(row, request, {"error": "no"})["finish_reason"] == "error"
