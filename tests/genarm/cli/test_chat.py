"""`genarm chat`: turns, commands, and what ends an answer or the program."""

import io
import sys

import pytest
from chat_families import byte_tokenizer

from genarm.cli import chat
from genarm.cli.chat import LINES, TEMPLATE, TRANSCRIPT, Conversation
from genarm.errors import GenARMError

TINY = ["--max-new-tokens", "4", "--temperature", "0"]


@pytest.fixture
def talk(cli, monkeypatch):
    """`genarm chat` with the tiny models and these lines on its standard input; every prompt decoded from is kept."""
    prompts: list[str] = []
    real = Conversation._prompt

    def prompt(self):
        ids = real(self)
        prompts.append(self.decoder.tokenizer.decode(ids))
        return ids

    def call(*lines, arguments=()):
        prompts.clear()
        monkeypatch.setattr(Conversation, "_prompt", prompt)
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        models = [part for part in cli.guided if part.startswith("--reward=")]
        found = cli("chat", "--base", cli.models / "base", *models, *TINY, *arguments)
        return found, list(prompts)

    return call


def test_a_conversation_goes_on_until_it_is_reset(talk):
    found, prompts = talk("hi", "", "and you?", "/reset", "hi", "/system be brief", "hi", "/quit", "never said")
    assert found.status == 0 and len(prompts) == 4
    answer = prompts[1].removeprefix("<bos>[user]hi[assistant]").removesuffix("[user]and you?[assistant]")
    assert prompts[0] == prompts[2] == "<bos>[user]hi[assistant]" and answer != prompts[1]
    assert prompts[3].startswith("<bos>[system]be brief[user]hi[assistant]")
    assert found.errors == ["genarm: the conversation is forgotten", "genarm: system: be brief"]
    assert len(found.text.splitlines()) >= 4


def test_weights_change_while_it_goes_on(talk):
    found, prompts = talk("/weights second=0 first=2.5", "/weights third=1", "/weights first=x", "/weights", "/nope")
    changed = "genarm: weights: first=2.5 second=0"
    assert found.errors == [
        changed,
        "genarm: error: there is no reward model 'third'; those loaded are first, second",
        changed,
        "genarm: error: 'first=x' is no weight: write first=1.0",
        changed,
        changed,
        "genarm: error: there is no command /nope; /help lists them (a space before a slash sends it as text)",
    ]
    assert (found.status, found.text, prompts) == (0, "", [])
    texts = {talk(f"/weights first={weight}", "hi", arguments=["--max-new-tokens", 20])[0].text for weight in (0, 30)}
    assert len(texts) == 2
    assert "/weights art=1 risk=0" in "\n".join(talk("/help")[0].errors)


def test_what_cannot_be_said_is_named_and_forgotten(talk):
    found, prompts = talk("x" * 600, "hi", arguments=["--max-length", 512])
    assert found.status == 1 and len(found.errors) == 1 and "over max_length" in found.line
    assert prompts[1] == "<bos>[user]hi[assistant]"


@pytest.fixture(scope="module")
def decoder(models):
    from genarm import GuidedDecoder

    return GuidedDecoder.from_pretrained(models / "base", {"first": models / "first"}, tokenizer=byte_tokenizer())


def test_ctrl_c_ends_the_answer_and_keeps_what_was_said(decoder, monkeypatch, capsys):
    conversation = Conversation(decoder, {"first": 1.0}, TEMPLATE, {"max_new_tokens": 9})

    def draw(self):
        yield "I was about"
        raise KeyboardInterrupt

    monkeypatch.setattr(Conversation, "_draw", draw)
    assert chat._show_answer(conversation, "hi")
    assert [message["content"] for message in conversation.messages] == ["hi", "I was about"]
    said = capsys.readouterr()
    assert said.out == "I was about\n" and said.err == "genarm: the answer was stopped\n"


def test_a_terminal_is_asked_until_its_end(decoder, monkeypatch, capsys):
    not_text = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "")
    typed = iter(["hi", KeyboardInterrupt, not_text, "ho", EOFError])

    def read(prompt):
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    assert list(chat._lines(True)) == ["hi", "ho"]
    said = capsys.readouterr().err
    assert "Ctrl-D or /quit ends" in said and "that line is not UTF-8" in said
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff\n"), encoding="utf-8"))
    with pytest.raises(GenARMError, match="the standard input is not UTF-8"):
        list(chat._lines(False))


def test_a_base_without_a_template_goes_on_from_lines_or_writes_a_transcript(decoder, monkeypatch, capsys):
    stops, texts = [], []
    real = decoder.prepare

    def prepare(ids, **options):
        stops.append(options["stop"])
        texts.append(decoder.tokenizer.decode(ids[0]))
        return real(ids, **options)

    monkeypatch.setattr(decoder, "prepare", prepare)
    for kind in (LINES, TRANSCRIPT):
        conversation = Conversation(decoder, {"first": 1.0}, kind, {"max_new_tokens": 2}, system="A talk.")
        for line in ("hi", "ho"):
            said = "".join(conversation.answer(line))
    assert texts[:2] == ["<bos>hi", "<bos>ho"] and stops[:2] == [None, None]
    assert texts[2] == "<bos>A talk.\n\nUser: hi\nAssistant:" and stops[2] == ["\nUser:", "\nAssistant:"]
    assert texts[3].startswith("<bos>A talk.\n\nUser: hi\nAssistant: ") and texts[3].endswith("\nUser: ho\nAssistant:")
    assert conversation.messages[-1]["content"] == said.strip()
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    options = chat.ChatOptions(None, {})
    assert chat._kind(tokenizer, options) == LINES
    with pytest.raises(GenARMError, match=r"--system: .* give --transcript too"):
        chat._kind(tokenizer, chat.ChatOptions(None, {}, system="s"))
