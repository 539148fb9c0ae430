"""What `genarm play --server` writes with is a running `genarm serve`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from served_cases import NAMES, PROMPTS, TOKENS, WEIGHTS, decoder
from served_process import KEY, NAME, Server, serving

from genarm.errors import InvalidArgumentError, RunError
from genarm.play.connection import Connection
from genarm.play.served import ServedWriter
from genarm.play.settings import CHAT, PlaySettings
from genarm.play.written import WrittenText

SETTINGS = PlaySettings(
    prompt=PROMPTS[0], weights=WEIGHTS[1], new_tokens=TOKENS, seed=3, colour="art", axes=("art", "risk")
)


@pytest.fixture(scope="module")
def server(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(wide, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def writer(server: Server) -> ServedWriter:
    connection = Connection(f"http://127.0.0.1:{server.port}", KEY)
    model = connection.model()
    return ServedWriter(connection, model, SETTINGS, "tested", connection.has_chat_template(model))


def test_it_knows_what_is_served(writer: ServedWriter) -> None:
    assert writer.names == NAMES and writer.model.weights == WEIGHTS[0] and writer.has_chat_template
    assert (writer.model.name, writer.model.longest, writer.model.beta) == (NAME, 256, 1.0)


def test_greedy_texts_and_what_every_model_says_are_the_embedded_engines(writer: ServedWriter, wide: Path) -> None:
    *before, last = writer.write(replace(SETTINGS, temperature=0.0))
    out = decoder(wide).generate(
        [PROMPTS[0]] * 2,
        weights=[dict.fromkeys(NAMES, 0.0), WEIGHTS[1]],
        max_new_tokens=TOKENS,
        temperature=0.0,
        return_logprobs=True,
    )
    assert out.texts is not None and out.model_logprobs is not None and not before[0].is_finished
    for row, text in enumerate((last.base, last.guided)):
        assert text.text == out.texts[row]
        found = torch.tensor([[token.base, *token.rewards] for token in text.tokens])
        torch.testing.assert_close(found, out.model_logprobs[row, : len(out.tokens[row])], atol=2e-4, rtol=0)


def test_a_seed_writes_the_same_pair_again_and_without_weights_both_texts_are_the_same(writer: ServedWriter) -> None:
    once, again = (list(writer.write(SETTINGS))[-1] for _ in range(2))
    assert words(once.base) == words(again.base) and words(once.guided) == words(again.guided)
    *_, plain = writer.write(replace(SETTINGS, weights=dict.fromkeys(NAMES, 0.0)))
    assert words(plain.guided) == words(plain.base) == words(once.base) != words(once.guided)


def words(text: WrittenText) -> list[str]:
    return [token.text for token in text.tokens]


@pytest.mark.parametrize("has_template", [True, False])
def test_a_chat_is_answered(writer: ServedWriter, has_template: bool) -> None:
    talking = replace(writer, has_chat_template=has_template)
    *_, last = talking.write(replace(SETTINGS, mode=CHAT, prompt="What do you like?"))
    assert last.is_finished and last.guided.tokens and "User:" not in last.guided.text
    assert all(len(token.rewards) == len(NAMES) and token.base < 0 for token in last.guided.tokens)


def test_what_the_server_refuses_is_said_in_its_words(writer: ServedWriter) -> None:
    with pytest.raises(InvalidArgumentError, match=r"The server says: .*256"):
        list(writer.write(replace(SETTINGS, new_tokens=500)))
    with pytest.raises(InvalidArgumentError, match=r"every weight is 0|at most"):
        list(writer.write(replace(SETTINGS, weights=dict.fromkeys(NAMES, 1e9))))
    with pytest.raises(RunError, match="another API key"):
        Connection(writer.connection.address, "wrong").model()


def test_a_run_that_is_closed_frees_the_servers_places(server: Server, writer: ServedWriter) -> None:
    pairs = writer.write(replace(SETTINGS, new_tokens=200))
    while not next(pairs).guided.tokens:
        pass
    pairs.close()
    server.settle()
