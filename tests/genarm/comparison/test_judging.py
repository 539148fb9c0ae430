"""Asking an endpoint: both orders, verdicts, retries, refusals, nothing asked twice, no key kept. The endpoint is a
server of this process (`tests/judge_server.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from judge_server import said, serving

from genarm.comparison.answered import Answered
from genarm.comparison.answers import Answer
from genarm.comparison.endpoint import Endpoint
from genarm.comparison.figures import agreement, judge_figures
from genarm.comparison.judging import judge, preference_of
from genarm.errors import InvalidArgumentError, RunError


def answer(method: str, text: str, prompt_id: int = 1, reason: str = "eos") -> Answer:
    return Answer(method, prompt_id, f"prompt {prompt_id}", [1], 0, text, [5, 2], 0.1, {}, None, reason)


def answers(count: int = 3) -> list[Answer]:
    return [
        answer(method, f"{quality} answer {place}", place)
        for method, quality in (("theirs", "plain"), ("ours", "excellent"), ("poor", "bad"))
        for place in range(count)
    ]


def fair(body: dict[str, Any], _: int) -> tuple[int, dict[str, str], Any]:
    """A judge that knows what is excellent and what is bad, and prefers by it in either order."""
    text = body["messages"][0]["content"]
    places = {word: text.find(f"{word} answer") for word in ("excellent", "plain", "bad") if f"{word} answer" in text}
    return said("A" if min(places, key=lambda word: places[word]) == next(iter(places)) else "B.")


def quick(url: str, **settings: Any) -> Endpoint:
    return Endpoint(url, sleep=lambda seconds: None, **settings)


def test_every_answer_is_compared_in_both_orders_and_the_better_wins(tmp_path: Path) -> None:
    with serving(fair) as (url, asked, keys):
        endpoint = quick(url, key="secret-key")
        verdicts = judge(endpoint, ["one", "two"], answers(), "theirs", Answered(tmp_path / "judge.jsonl"))
    assert len(asked) == 2 * 2 * 2 * 3 and {body["model"] for body in asked} == {"one", "two"}
    assert all(body["temperature"] == 0 for body in asked) and set(keys) == {"Bearer secret-key"}
    figures = {(row.label, row.judge): row for row in judge_figures(verdicts)}
    assert all(figures["ours", name].wins.value == 1.0 for name in ("one", "two"))
    assert figures["poor", "one"].wins.value == 0.0 and figures["poor", "one"].consistent == 1.0
    assert agreement(verdicts) == {"one and two": 1.0}
    assert "secret-key" not in (tmp_path / "judge.jsonl").read_text() + repr(endpoint)


def test_a_judge_that_only_looks_at_the_place_has_no_preference(tmp_path: Path) -> None:
    with serving(lambda body, number: said("A")) as (url, _, _):
        verdicts = judge(quick(url), ["m"], answers(), "theirs", Answered(tmp_path / "judge.jsonl"))
    assert {verdict.orders for verdict in verdicts} == {(1.0, 0.0)}
    rows = judge_figures(verdicts)
    assert all(row.wins.value == 0.5 and row.consistent == 0.0 for row in rows)


def test_nothing_is_asked_twice_and_changed_answers_are_asked_again(tmp_path: Path) -> None:
    kept = tmp_path / "judge.jsonl"
    with serving(fair) as (url, asked, _):
        first = judge(quick(url), ["m"], answers(), "theirs", Answered(kept))
        assert judge(quick(url), ["m"], answers(), "theirs", Answered(kept)) == first and len(asked) == 12
        with kept.open("ab") as stream:
            stream.write(b'{"key": "torn')
        changed = [answer("ours", "another answer", 0), *answers()[:3], *answers()[4:]]
        judge(quick(url), ["m"], changed, "theirs", Answered(kept))
    assert len(asked) == 14


def test_an_endpoint_that_fails_for_a_while_is_asked_again_after_as_long_as_it_says(tmp_path: Path) -> None:
    def busy(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], Any]:
        return [(429, {"Retry-After": "7"}, {}), (503, {}, {}), said("B")][min(number, 3) - 1]

    waited: list[float] = []
    with serving(busy) as (url, asked, _):
        assert Endpoint(url, sleep=waited.append).ask("m", [], 4) == "B"
    assert waited == [7.0, 2.0] and len(asked) == 3


def test_a_refusal_stops_at_once_keeps_what_was_answered_and_hides_the_key(tmp_path: Path) -> None:
    def revoked(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], Any]:
        return said("A") if number < 4 else (401, {}, b"bad key s3cret")

    kept = tmp_path / "judge.jsonl"
    with serving(revoked) as (url, asked, _):
        with pytest.raises(RunError, match=r"401 \(bad key KEY\).*--judge-key"):
            judge(quick(url, key="s3cret"), ["m"], answers(), "theirs", Answered(kept), workers=1)
        assert len(kept.read_text().splitlines()) == 3
        before = len(asked)
    assert before < 12  # after the refusal nothing more than what was on its way


@pytest.mark.parametrize(
    ("status", "headers", "body", "words"),
    [
        (302, {"Location": "http://127.0.0.1:9/v1"}, b"", "moved elsewhere"),
        (200, {}, {"answer": "A"}, "another form"),
        (404, {}, b"no such model", "--judge-model"),
    ],
    ids=["redirect", "form", "missing"],
)
def test_what_an_endpoint_does_wrong_is_said(status: int, headers: dict[str, str], body: Any, words: str) -> None:
    with (
        serving(lambda *_: (status, headers, body)) as (url, asked, _),
        pytest.raises(RunError, match=words),
    ):
        quick(url).ask("m", [], 4)
    assert len(asked) == 1


def test_an_endpoint_that_is_not_there_is_given_up_after_its_attempts() -> None:
    with pytest.raises(RunError, match=r"could not be asked .* 3 times"):
        quick("http://127.0.0.1:9/v1", attempts=3, timeout=1.0).ask("m", [], 4)
    with pytest.raises(InvalidArgumentError, match="http"):
        Endpoint("127.0.0.1:9")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("A", 1.0), (" b.\n", 0.0), ("**A**", 1.0), ("Answer B", 0.0), ("A. It is kinder.", 1.0), ("T", 0.5),
        ("tie", 0.5), ("A better answer would be B", None), ("Both are fine", None), ("", None),
    ],
)  # fmt: skip
def test_a_verdict_is_a_letter_and_nothing_is_guessed(reply: str, expected: float | None) -> None:
    assert preference_of(reply, swapped=False) == expected
    assert preference_of(reply, swapped=True) == (None if expected is None else 1 - expected)


def test_failed_answers_are_left_out_and_unread_replies_counted(tmp_path: Path) -> None:
    given = [answer("theirs", "x", 1), answer("theirs", "y", 2), answer("ours", "", 1, "error"), answer("ours", "z", 2)]
    with serving(lambda *_: said("Hm")) as (url, asked, _):
        verdicts = judge(quick(url), ["m"], given, "theirs", Answered(tmp_path / "judge.jsonl"))
    (row,) = judge_figures(verdicts)
    assert len(asked) == 2 and (row.comparisons, row.unread, row.wins) == (0, 2, None)
