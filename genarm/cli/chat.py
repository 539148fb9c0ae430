"""`genarm chat`: a conversation with a guided model, line by line, whose weights change while it goes on."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..decoder import GuidedDecoder
from ..errors import GenARMError, InvalidArgumentError
from ..models.sources import model_path, parse_rewards
from ..request.text import PromptEncoder
from ..request.transcript import STOPS, transcript
from .console import say, visible
from .loading import load
from .options import ModelOptions

TEMPLATE, TRANSCRIPT, LINES = "template", "transcript", "lines"
HELP = """/weights art=1 risk=0   change weights; /weights alone shows them
/system TEXT            begin the conversation with this system message; alone: show it
/reset                  forget the conversation
/help                   this list
/quit                   end, as Ctrl-D does; Ctrl-C ends an answer"""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """The command line of `genarm chat`. ``decoding`` holds keywords of ``GuidedDecoder.generate``."""

    models: ModelOptions
    decoding: dict[str, Any]
    seed: int = 0
    system: str | None = None
    transcript: bool = False


@dataclass(slots=True)
class Conversation:
    """What was said, and how the next answer is drawn.

    kind: "template" writes messages by the tokenizer's chat template, "transcript" as lines User: and Assistant:,
        "lines" goes on from each line by itself and remembers none.
    """

    decoder: GuidedDecoder
    weights: dict[str, float]
    kind: str
    decoding: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    turns: int = 0

    def answer(self, text: str) -> Generator[str]:
        """The pieces of the answer to a line as they become final. What was said when it ends, or is closed before, is
        remembered; where nothing could be said, neither is the line.

        Raises:
            GenARMError: the conversation cannot be decoded, for example because it is too long.
        """
        asked = {"role": "user", "content": text}
        self.messages.append(asked)
        said = ""
        try:
            for piece in self._draw():
                said += piece
                yield piece
        finally:
            if self.kind == LINES:
                self.messages.clear()
            elif said:
                self.messages.append({"role": "assistant", "content": said.strip()})
            else:
                self.messages.remove(asked)

    def reset(self) -> None:
        self.messages.clear()

    def reweigh(self, text: str) -> None:
        """Change the weights that ``NAME=NUMBER …`` names.

        Raises:
            InvalidArgumentError: a name that is not loaded, or no number.
        """
        new = {}
        for part in text.replace(",", " ").split():
            name, _, number = part.partition("=")
            if name not in self.weights:
                known = ", ".join(self.weights) or "none: start with --reward"
                raise InvalidArgumentError(f"there is no reward model {name!r}; those loaded are {known}")
            try:
                new[name] = float(number)
            except ValueError:
                raise InvalidArgumentError(f"{part!r} is no weight: write {name}=1.0") from None
        changed = {**self.weights, **new}
        self.decoder.prepare([[0]], weights=changed)
        self.weights = changed

    def _draw(self) -> Iterator[str]:
        stop = [*self.decoding.get("stop", ())]
        if self.kind == TRANSCRIPT:
            stop += STOPS
        seed, self.turns = self.seed + self.turns, self.turns + 1
        options = {**self.decoding, "weights": self.weights, "seed": seed, "stop": stop or None}
        if "particles" in options:  # the answer is chosen once all of them are whole
            out = self.decoder.generate([self._prompt()], **options)
            assert out.texts is not None
            yield out.texts[0]
            return
        running = self.decoder.start(self.decoder.prepare([self._prompt()], **options))
        with contextlib.closing(running.steps()) as steps:
            for step in steps:
                assert step.texts is not None
                yield step.texts[0]
        for error in running.output().errors.values():
            raise error

    def _prompt(self) -> list[int]:
        encoder = PromptEncoder(self.decoder.tokenizer)
        system = [{"role": "system", "content": self.system}] if self.system else []
        if self.kind == TEMPLATE:
            return encoder.chat([*system, *self.messages])
        if self.kind == LINES:
            return encoder.text(self.messages[-1]["content"])
        return encoder.text(transcript([*system, *self.messages]))


def chat(options: ChatOptions) -> int:
    """Run the command; its exit status: 0, or 1 when the input is no terminal and an answer failed.

    Raises:
        GenARMError: the models cannot be loaded, or a setting is wrong.
    """
    base, rewards = model_path(options.models.base), parse_rewards(options.models.rewards)
    decoder = load(options.models, base, rewards)
    if decoder.tokenizer is None:
        raise InvalidArgumentError("the base model has no tokenizer beside it: put its tokenizer.json into the folder")
    weights = {reward.name: reward.weight for reward in rewards}
    kind = _kind(decoder.tokenizer, options)
    conversation = Conversation(decoder, weights, kind, options.decoding, options.seed, options.system)
    decoder.prepare([[0]], weights=weights, seed=options.seed, **options.decoding)
    talks = sys.stdin.isatty()
    if talks:
        _greet(conversation)
    failed = False
    for line in _lines(talks):
        if line.startswith("/"):
            if not _command(conversation, line):
                break
        elif line.strip():
            failed |= not _show_answer(conversation, line)
    return int(failed and not talks)


def _kind(tokenizer: Any, options: ChatOptions) -> str:
    if options.transcript:
        return TRANSCRIPT
    if getattr(tokenizer, "chat_template", None):
        return TEMPLATE
    if options.system is not None:
        raise InvalidArgumentError(
            "--system: the base model's tokenizer has no chat template, so that lines are gone on from by themselves: "
            "give --transcript too, or leave --system out"
        )
    return LINES


def _greet(conversation: Conversation) -> None:
    if conversation.kind == LINES:
        say(
            "this base model has no chat template: it goes on from each line that you type, and remembers none "
            "(--transcript makes a conversation of it)"
        )
    say(f"weights: {_weights(conversation)}. /help lists the commands, Ctrl-D ends")


def _lines(talks: bool) -> Iterator[str]:
    """What the user types, or the lines of a standard input that is no terminal."""
    if not talks:
        try:
            for line in sys.stdin:
                yield line.rstrip("\r\n")
        except UnicodeDecodeError:
            raise InvalidArgumentError("the standard input is not UTF-8: convert it with iconv") from None
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # lines can be edited, and earlier ones come back with the arrow keys
    while True:
        try:
            yield input("> ")
        except EOFError:
            sys.stdout.write("\n")
            return
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            say("Ctrl-D or /quit ends")
        except UnicodeDecodeError:
            say("error: that line is not UTF-8")


def _show_answer(conversation: Conversation, line: str) -> bool:
    """Write an answer as it comes; whether there was one. Ctrl-C ends the answer and no more."""
    written = ""
    lead = line if conversation.kind == LINES else ""
    answer = conversation.answer(line)
    try:
        with contextlib.closing(answer):
            for piece in answer:
                piece = (lead + piece) if not written else piece
                piece = piece if written else piece.lstrip()
                written += piece
                sys.stdout.write(visible(piece))
                sys.stdout.flush()
    except GenARMError as error:
        _end_line(written)
        say(f"error: {error}" + ("; /reset forgets the conversation" if len(conversation.messages) > 1 else ""))
        return False
    except KeyboardInterrupt as interrupt:
        if hasattr(interrupt, "status"):  # not Ctrl-C: the process is to end
            raise
        _end_line(written)
        say("the answer was stopped")
    else:
        _end_line(written)
    return True


def _end_line(written: str) -> None:
    if written and not written.endswith("\n"):
        sys.stdout.write("\n")
    sys.stdout.flush()


def _command(conversation: Conversation, line: str) -> bool:
    """Do what a line that begins with a slash says; False where it ends the program."""
    name, _, text = line.strip().partition(" ")
    text = text.strip()
    if name in ("/quit", "/exit"):
        return False
    if name == "/weights":
        try:
            conversation.reweigh(text)
        except GenARMError as error:
            say(f"error: {error}")
        say(f"weights: {_weights(conversation)}")
    elif name == "/system":
        _set_system(conversation, text)
    elif name == "/reset":
        conversation.reset()
        say("the conversation is forgotten")
    elif name == "/help":
        for help_line in HELP.splitlines():
            sys.stderr.write(f"{help_line}\n")
    else:
        say(f"error: there is no command {name}; /help lists them (a space before a slash sends it as text)")
    return True


def _set_system(conversation: Conversation, text: str) -> None:
    if conversation.kind == LINES:
        say("error: there is no conversation, each line stands by itself: start with --transcript for one")
        return
    conversation.system = text or conversation.system
    say(f"system: {conversation.system or 'none'}")


def _weights(conversation: Conversation) -> str:
    named = (f"{name}={weight:g}" for name, weight in conversation.weights.items())
    return " ".join(named) or "none, as no --reward was given"
