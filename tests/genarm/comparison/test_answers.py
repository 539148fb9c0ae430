"""Answers of several methods: in turn, resumed after a kill without losing or doubling a row, and what they come to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import make_model, word_tokenizer

from genarm import GuidedDecoder
from genarm.comparison.alpaca import write_model_outputs
from genarm.comparison.answered import Answered
from genarm.comparison.answers import Answer, Answers, Contestant, Question, decode
from genarm.comparison.figures import method_figures
from genarm.comparison.pictures import draw_figures, draw_trade_offs
from genarm.comparison.scoring import score_answers
from genarm.comparison.tables import markdown
from genarm.errors import PromptError, RunError

QUESTIONS = [Question(place, f"q{place}", f"w{5 + place} w9", [5 + place, 9]) for place in range(5)]
SEEDS = (0, 3)


class Judge:
    """A trajectory RM that counts the tokens of a text, whatever stands behind them."""

    device = torch.device("cpu")

    config = SimpleNamespace(pad_token_id=0)

    def __init__(self) -> None:
        self.texts = 0

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        self.texts += len(input_ids)
        assert (input_ids[attention_mask == 0] == 0).all()
        counts = attention_mask.sum(1, keepdim=True).float()
        return type("Output", (), {"logits": counts})


@pytest.fixture(scope="module")
def plain() -> GuidedDecoder:
    base = make_model("llama", seed=1)
    tokenizer = word_tokenizer(bos_token="w1", eos_token="w2", pad_token="w0")
    return GuidedDecoder(base, tokenizer=tokenizer, max_batch_size=None)


def contestants(plain: GuidedDecoder, calls: list[str] | None = None) -> list[Contestant]:
    """Plain decoding, and two made-up methods: one that is colder, one that says that it chose by a score."""

    def of(label: str, **settings: Any) -> Contestant:
        def generate(inputs: list[list[int]], *, seed: list[int], max_new_tokens: int) -> Any:
            if calls is not None and max_new_tokens > 2:
                calls.append(label)
            out = plain.generate(inputs, seed=seed, max_new_tokens=max_new_tokens, return_logprobs=True, **settings)
            return replace(out, scores=torch.zeros(len(inputs))) if label == "blind" else out

        return Contestant(label, generate, {"method": label, **settings})

    return [of("base"), of("cold", temperature=0.5), of("blind", temperature=2.0)]


def answered(folder: Path, given: list[Contestant], stop_after: int | None = None) -> list[Answer]:
    """All answers; or stopped, as by a kill, once so many rows are written."""
    answers, written = Answers(folder, QUESTIONS, SEEDS), 0

    def report(row: Any) -> None:
        nonlocal written
        written += 1
        if written == stop_after:
            raise KeyboardInterrupt

    try:
        answers.open({one.label: one.settings for one in given})
        answers.begin()
        decode(given, answers, 2, 6, report)
        return answers.read()
    finally:
        answers.close()


@pytest.fixture(scope="module")
def whole(plain: GuidedDecoder, tmp_path_factory: pytest.TempPathFactory) -> list[Answer]:
    return answered(tmp_path_factory.mktemp("whole"), contestants(plain))


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / "answers").glob("*.jsonl")):
        yield from ({"method": path.stem, **json.loads(line)} for line in path.read_text().splitlines())


@pytest.mark.parametrize("stop_after", [1, 17])
def test_a_run_that_was_killed_goes_on_without_losing_or_doubling_a_row(
    plain: GuidedDecoder, whole: list[Answer], tmp_path: Path, stop_after: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        answered(tmp_path / "killed", contestants(plain), stop_after)
    assert len(list(rows(tmp_path / "killed"))) == stop_after
    with (tmp_path / "killed/answers/cold.jsonl").open("ab") as stream:
        stream.write(b'{"id": "q4", "samp')  # the kill came inside of a write
    again = answered(tmp_path / "killed", contestants(plain))
    keys = [(row["method"], row["id"], row["sample"]) for row in rows(tmp_path / "killed")]
    assert len(keys) == len(set(keys)) == 3 * len(SEEDS) * len(QUESTIONS)
    assert [(one.method, one.prompt_id, one.seed, one.tokens) for one in again] == [
        (one.method, one.prompt_id, one.seed, one.tokens) for one in whole
    ]
    calls: list[str] = []
    answered(tmp_path / "killed", contestants(plain, calls))
    assert calls == []


def test_an_answer_may_hold_any_line_end(plain: GuidedDecoder, tmp_path: Path) -> None:
    text = "one\u2028two\u0085three\nfour"

    def generate(inputs: list[list[int]], *, seed: list[int], max_new_tokens: int) -> Any:
        out = plain.generate(inputs, seed=seed, max_new_tokens=1)
        return replace(out, texts=[text] * len(inputs))

    found = answered(tmp_path, [Contestant("base", generate, {})])
    assert {answer.text for answer in found} == {text}


def test_methods_take_turns_and_another_method_leaves_the_others_answers_alone(
    plain: GuidedDecoder, tmp_path: Path
) -> None:
    calls: list[str] = []
    given = contestants(plain, calls)
    answered(tmp_path, given[:2])
    assert calls == ["base", "cold", "cold", "base"] * 3
    calls.clear()
    answered(tmp_path, given)
    assert calls == ["blind"] * 6
    changed = Contestant("cold", given[1].generate, {"method": "cold", "temperature": 0.7})
    with pytest.raises(RunError, match=r"temperature: 0\.5 then, 0\.7 now"):
        answered(tmp_path, [given[0], changed])


def test_a_row_that_fails_is_counted_and_a_batch_that_fails_names_its_method(
    plain: GuidedDecoder, tmp_path: Path
) -> None:
    def odd(inputs: list[list[int]], *, seed: list[int], max_new_tokens: int) -> Any:
        if inputs == [QUESTIONS[4].ids]:
            raise PromptError("all rows failed", {0: PromptError("too odd")})
        return plain.generate(inputs, seed=seed, max_new_tokens=max_new_tokens)

    found = answered(tmp_path / "odd", [Contestant("odd", odd, {})])
    assert [answer.prompt_id for answer in found if answer.failed] == ["q4", "q4"]

    def broken(inputs: list[list[int]], *, seed: list[int], max_new_tokens: int) -> Any:
        raise MemoryError("no room")

    with pytest.raises(RunError, match=r"mine: a batch of 2 .*no room.*batch_size"):
        answered(tmp_path / "broken", [Contestant("mine", broken, {})])


def test_scores_are_kept_and_figures_are_those_of_their_definitions(
    plain: GuidedDecoder, whole: list[Answer], tmp_path: Path
) -> None:
    answers, judge = whole, Judge()
    kept = tmp_path / "scores.jsonl"
    scored = score_answers(answers, plain, lambda: judge, "digest", Answered(kept), 4)
    assert [one.score for one in scored] == [len(one.prompt_ids) + len(one.tokens) for one in answers]
    seen = judge.texts
    assert score_answers(answers, plain, lambda: judge, "digest", Answered(kept), 4) == scored and judge.texts == seen
    figures = {row.label: row for row in method_figures(answers, scored)}
    for label, row in figures.items():
        own = [one for one in answers if one.method == label]
        tokens = sum(len(one.tokens) for one in own)
        assert row.tokens.value == pytest.approx(tokens / len(own))
        assert row.seconds == pytest.approx(128 * sum(one.seconds for one in own) / tokens)
        assert row.cost == pytest.approx(row.seconds / figures["base"].seconds)
        assert row.base_nats.value == pytest.approx(_base_nats(plain, own) / tokens, rel=1e-4)
        assert row.forwarded["base"] == pytest.approx(sum(one.forwarded["base"] for one in own) / tokens)
    assert figures["base"].kl.value == pytest.approx(0.0, abs=1e-4) and figures["base"].gain is None
    assert figures["cold"].kl.value > 0.01 and figures["blind"].kl is None
    gains = [len(cold.tokens) - len(base.tokens) for base, cold in zip(answers[:10], answers[10:20], strict=True)]
    assert figures["cold"].gain.value == pytest.approx(sum(gains) / 10)


def _base_nats(plain: GuidedDecoder, answers: list[Answer]) -> float:
    """−Σ log π_base by a plain forward pass over each text alone."""
    total = 0.0
    for answer in answers:
        ids = torch.tensor([[*answer.prompt_ids, *answer.tokens]])
        with torch.no_grad():
            log_probs = plain.base_model(input_ids=ids).logits[0].double().log_softmax(-1)
        places = torch.arange(len(answer.prompt_ids) - 1, ids.shape[1] - 1)
        total -= float(log_probs[places, ids[0, 1:][places]].sum())
    return total


def test_outputs_are_in_the_form_of_alpaca_eval(whole: list[Answer], tmp_path: Path) -> None:
    answers = [one for one in whole if one.method != "blind"]
    paths = write_model_outputs(answers, tmp_path, "words")
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        f"alpaca_eval/{method}/seed-{seed}/model_outputs.json" for method in ("base", "cold") for seed in SEEDS
    ]
    found = json.loads(paths[3].read_text())
    assert [row["instruction"] for row in found] == [question.prompt for question in QUESTIONS]
    own = [one for one in answers if one.method == "cold" and one.seed == 3]
    assert found[2] == {"instruction": "w7 w9", "output": own[2].text, "generator": "cold", "dataset": "words"}


def test_conversations_are_instructions_too() -> None:
    from genarm.comparison.alpaca import instruction

    asked = {"role": "user", "content": "Why?"}
    assert instruction([asked]) == "Why?"
    assert instruction([{"role": "system", "content": "Be brief."}, asked]) == "system: Be brief.\n\nuser: Why?"


def test_tables_and_pictures_take_any_figures(plain: GuidedDecoder, whole: list[Answer], tmp_path: Path) -> None:
    failed = [Answer("none", "q0", "x", [1], 0, "", [], 0.0, {}, None, "error")]
    scored = score_answers(whole, plain, Judge, "digest", Answered(tmp_path / "scores.jsonl"), 50)
    figures = method_figures([*whole, *failed], scored)
    lines = markdown(figures, []).splitlines()
    assert lines[0].startswith("| method | score") and len({line.count("|") for line in lines[:6]}) == 1
    assert "| none | – | – | – | – | 1 |" in lines
    draw_figures(figures, tmp_path / "figures.png")
    draw_trade_offs(figures, tmp_path / "trade.png")
    assert min(path.stat().st_size for path in tmp_path.glob("*.png")) > 10_000
