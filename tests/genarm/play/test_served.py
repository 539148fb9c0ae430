"""Pairs of texts by a server that answers from a script: what it is asked, and what is made of its answers."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from guided_server import CARD, KEY, GuidedServer, chunk

from genarm import InvalidArgumentError
from genarm.errors import GenARMError, RunError
from genarm.play.connection import Connection
from genarm.play.served import ServedWriter
from genarm.play.served_text import ServedText
from genarm.play.settings import CHAT, PlaySettings
from genarm.play.worker import Workers

SETTINGS = PlaySettings(
    prompt="Once", weights={"art": 1.5, "risk": 0.0}, beta=0.5, seed=3, new_tokens=9, colour="art", axes=("art", "risk")
)


def is_base(body: dict[str, Any]) -> bool:
    return "base_weight" in body["vllm_xargs"]


def story(body: dict[str, Any]) -> Iterator[Any]:
    """The base's text or the guided one, with an end that the model drew."""
    for word in (" upon", " a", " time") if is_base(body) else (" we", " painted"):
        yield chunk(word, [word])
    yield chunk("", ["</s>"], reason="stop")


def writer_of(server: GuidedServer, has_template: bool = False) -> ServedWriter:
    connection = Connection(f"{server.address}/v1/", KEY)
    return ServedWriter(connection, connection.model(), SETTINGS, "scripted", has_template)


def test_a_server_says_what_it_serves() -> None:
    with GuidedServer(story).running() as server:
        model = Connection(server.address, KEY).model()
    assert (model.name, model.weights, model.beta, model.longest) == (CARD["id"], {"art": 1.0, "risk": 0.5}, 0.5, 64)


def test_both_texts_grow_token_by_token_to_their_ends() -> None:
    with GuidedServer(story).running() as server:
        pairs = list(writer_of(server).write(SETTINGS))
    last = pairs[-1]
    assert last.base.text == " upon a time" and last.guided.text == " we painted" and last.is_finished
    assert [(one.text, one.is_mark) for one in last.guided.tokens][-1] == ("</s>", True)
    assert {(one.base, one.rewards) for one in last.base.tokens} == {(-1.0, (-2.0, -3.0))}
    assert len(pairs) == 7
    for before, after in pairwise(pairs):
        for early, late in ((before.base, after.base), (before.guided, after.guided)):
            assert late.tokens[: len(early.tokens)] == early.tokens


def test_the_two_requests_differ_in_their_weights_alone() -> None:
    with GuidedServer(story).running() as server:
        list(writer_of(server).write(SETTINGS))
    base, guided = sorted((body for _, body in server.asked), key=is_base, reverse=True)
    asked = {"weights.art": 0.0, "weights.risk": 0.0, "base_weight": 1.0, "model_logprobs": True}
    assert base.pop("vllm_xargs") == asked
    assert guided.pop("vllm_xargs") == {"weights.art": 1.5, "weights.risk": 0.0, "beta": 0.5, "model_logprobs": True}
    assert base == guided and base["seed"] == 3 and base["max_tokens"] == 9 and base["logprobs"] == 0
    assert base["prompt"] == "Once" and base["stream"] is True and base["top_p"] == 1.0 and "stop" not in base


@pytest.mark.parametrize("has_template", [False, True])
def test_a_chat_is_messages_or_lines(has_template: bool) -> None:
    def chat(body: dict[str, Any]) -> Iterator[Any]:
        told = chunk("", [])
        yield {**told, "text": None, "delta": {"role": "assistant", "content": ""}, "logprobs": None}
        told = chunk(" ho", [" ho"], reason="stop")
        content = [{"token": " ho"}]
        told["logprobs"] = {"content": content, "model_logprobs": told["logprobs"]["model_logprobs"]}
        yield {**told, "text": None, "delta": {"content": " ho"}}

    settings = replace(SETTINGS, mode=CHAT, turns=(("a", "b"),), prompt="hi", temperature=0.0)
    with GuidedServer(chat if has_template else story).running() as server:
        *_, last = writer_of(server, has_template).write(settings)
    (path, body), _ = server.asked
    assert "seed" not in body
    if has_template:
        assert path == "/v1/chat/completions" and [one["content"] for one in body["messages"]] == ["a", "b", "hi"]
        assert body["logprobs"] is True and last.base.text == " ho" and last.base.tokens[0].rewards == (-2.0, -3.0)
    else:
        assert path == "/v1/completions" and body["prompt"] == "User: a\nAssistant: b\nUser: hi\nAssistant:"
        assert body["stop"] == ["\nUser:", "\nAssistant:"]


def test_whether_messages_are_answered_is_asked() -> None:
    with GuidedServer(lambda body: (400, {"error": {"message": "no template"}})).running() as server:
        connection = Connection(server.address, KEY)
        assert not connection.has_chat_template(connection.model())
    with GuidedServer(lambda body: (200, {})).running() as server:
        connection = Connection(server.address, KEY)
        assert connection.has_chat_template(connection.model())


@pytest.mark.parametrize(
    ("chunks", "texts", "hidden"),
    [
        ([("Hé", ["H", "", "é"]), (" you", [" you"])], ["H", "", "é", " you"], 0),  # half a letter
        ([("I like it", ["I", "like", "it"])], ["I", " like", " it"], 0),  # spelled without spaces
        ([("a", ["a"]), ("", ["\n"]), ("\nb", ["b"])], ["a", "\n", "b"], 0),  # held back, then no stop string
        ([("a", ["a"]), ("", ["\n"]), ("", ["User"]), ("", [":"])], ["a"], 3),  # held back for good
        ([("a", ["a"]), (" pain", [" paint"])], ["a", " pain"], 0),  # cut within a token
        ([("ab", ["a", "<mark>", "b"])], ["a", "", "b"], 0),  # a token that no text shows
    ],
)
def test_tokens_share_the_text_out(chunks: list[Any], texts: list[str], hidden: int) -> None:
    text = ServedText(("art", "risk"))
    for piece, tokens in chunks:
        text.push(chunk(piece, tokens))
    assert [one.text for one in text.written().tokens] == texts and not text.is_over
    end = {**chunk("", [], reason="stop"), "stop_reason": "\nUser:"}
    text.push(end)
    assert [one.text for one in text.written().tokens] == texts and text.written().ending == "ended by itself"
    assert sum(len(tokens) for _, tokens in chunks) - len(texts) == hidden


def test_what_nobody_said_is_no_number() -> None:
    text = ServedText(("art", "risk"))
    text.push(chunk("a", ["a"], (None, -9999.0, -1.0)))
    (token,) = text.written().tokens
    assert math.isnan(token.base) and token.rewards == (-9999.0, -1.0)
    text.push({**chunk("b", ["b"]), "logprobs": {"tokens": ["b"]}})
    assert all(map(math.isnan, text.written().tokens[1].rewards))


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        (lambda body: (400, {"error": {"message": "prompt is\ntoo long"}}), InvalidArgumentError, "prompt is too long"),
        (lambda body: (500, {"error": {"message": "oh"}}), RunError, r"\(status 500\): oh"),
        (lambda body: (503, "down"), RunError, r"\(status 503\): down"),
        (lambda body: [chunk(" a", [" a"]), {"error": {"message": "engine died"}}], RunError, "engine died"),
        (lambda body: [{"error": {"message": "no weight", "code": 400}}], InvalidArgumentError, "says: no weight"),
        (lambda body: [chunk(" a", [" a"])], RunError, "broke off before its end"),
    ],
)
def test_what_goes_wrong_is_said(script: Any, kind: type[GenARMError], message: str) -> None:
    with GuidedServer(script).running() as server, pytest.raises(kind, match=message):
        list(writer_of(server).write(SETTINGS))


def test_a_server_that_is_gone_is_said() -> None:
    with GuidedServer(story).running() as server:
        writer = writer_of(server)
    with pytest.raises(RunError, match=r"stopped answering.*run again"):
        list(writer.write(SETTINGS))
    with pytest.raises(RunError, match=r"no server answers at http.*start one with genarm serve"):
        Connection(server.address, KEY).model()


@pytest.mark.parametrize(
    ("card", "key", "message"),
    [
        (CARD, "wrong", "another API key: give its own with --api-key"),
        (CARD, None, "another API key"),
        ({"id": "plain", "max_model_len": 9}, KEY, "serves 'plain' without reward models"),
        ("plain", KEY, "has no /v1/models"),
    ],
)
def test_a_server_that_cannot_be_played_with_is_refused(card: Any, key: str | None, message: str) -> None:
    with GuidedServer(story, card).running() as server, pytest.raises(RunError, match=message):
        Connection(server.address, key).model()


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://a", "http://"])
def test_an_address_is_one(address: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"such as http://127\.0\.0\.1:8000"):
        Connection(address, None)


def test_what_the_page_has_no_control_for_is_refused() -> None:
    with GuidedServer(story).running() as server:
        writer = writer_of(server)
        for settings, message in (
            (replace(SETTINGS, base_min_p=0.1), "base_min_p"),
            (replace(SETTINGS, prompt=" "), "is empty"),
        ):
            with pytest.raises(InvalidArgumentError, match=message):
                next(writer.write(settings))
    assert not server.asked


def test_a_run_that_is_stopped_leaves_the_server_at_once() -> None:
    """Also one that waits for a word."""
    goes_on = threading.Event()

    def slow(body: dict[str, Any]) -> Iterator[Any]:
        yield chunk(" a", [" a"])
        goes_on.wait(20)
        while True:  # until nobody listens
            yield chunk(" b" * 1000, [" b"])

    with GuidedServer(slow).running() as server:
        worker = Workers(writer_of(server)).start("page", SETTINGS)
        until(lambda: worker.pair.base.tokens and worker.pair.guided.tokens)
        worker.stop()
        until(lambda: worker.is_over)
        assert worker.error is None and worker.pair.guided.text == " a"
        goes_on.set()
        until(lambda: server.left == 2)


def until(condition: Any) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
