"""Rows without a prompt of their own: where the prompt ends that both sides begin with.

One question has to be one prompt in every row it stands in, or pairs of it are both trained on and held out. So words
that two replies begin with alike are no part of it: whole messages are compared, and text is cut at the last place
where both sides say that the assistant speaks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import InvalidArgumentError
from .texts import Text, shared_length

# What stands before an assistant's reply, and what begins any later turn. The first that is there decides.
TURNS = [
    (re.compile(before), re.compile(later))
    for before, later in (
        (r"\n\nAssistant:", r"\n\n(?:Human|Assistant):"),
        (r"<\|im_start\|>assistant\n", r"<\|im_start\|>"),
        (r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n", r"<\|start_header_id\|>"),
        (r"<start_of_turn>model\n", r"<start_of_turn>"),
        (r"<\|assistant\|>\n?", r"<\|(?:system|user|assistant)\|>"),
        (r"<｜Assistant｜>", r"<｜(?:User|Assistant)｜>"),
        (r"\[/INST\]", r"\[/?INST\]"),
        (r"### (?:Response|Assistant):\n?", r"### (?:Instruction|Input|Human|User|Response|Assistant):"),
        (r"\bASSISTANT:", r"\b(?:USER|ASSISTANT):"),
        (r"\nA:", r"\n[QA]:"),
    )
]


class LeftOutError(Exception):
    """A row that is well formed and teaches nothing; its text says why, as in "{text} in 3 of 10 pairs"."""


PARTED = "the two conversations part before their last reply"
EMPTY = "a reply is empty"


@dataclass(frozen=True, slots=True)
class Parted:
    """A prompt and two responses; ``by_lines`` is whether nothing but shared lines told where the prompt ends."""

    prompt: Text
    chosen: Text
    rejected: Text
    by_lines: bool = False


def part(chosen: Text, rejected: Text, marker: str | None = None) -> Parted:
    """The prompt that both sides begin with, and what is left of each.

    Texts without any marker are cut after the last line that they share; without one, they have no prompt.

    Args:
        marker: the text before a response, in place of those that are known.

    Raises:
        LeftOutError: the sides part in an earlier turn than the last, or a reply is empty.
        InvalidArgumentError: messages that share no beginning.
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        cut = _reply_start(chosen, rejected, marker)
        by_lines = cut is None
        if cut is None:
            cut = _line_start(chosen, rejected)
        elif not (chosen[cut:].strip() and rejected[cut:].strip()):
            raise LeftOutError(EMPTY)
        return Parted(chosen[:cut], chosen[cut:], rejected[cut:], by_lines)
    cut = shared_length(chosen[:-1], rejected[:-1])
    if not cut:
        raise InvalidArgumentError("chosen and rejected share no first message: give the row a prompt")
    if len(chosen) - cut > 1 or len(rejected) - cut > 1:
        raise LeftOutError(PARTED)
    return Parted(chosen[:cut], chosen[cut:], rejected[cut:])


def is_marked(chosen: Text, rejected: Text) -> bool:
    """Whether a known mark in what two texts begin with says where a reply begins."""
    if not (isinstance(chosen, str) and isinstance(rejected, str)):
        return False
    shared = shared_length(chosen, rejected)
    return any(before.search(chosen, 0, shared) for before, _ in TURNS)


def _reply_start(chosen: str, rejected: str, marker: str | None) -> int | None:
    """Where the last reply begins in both texts; None where nothing marks it."""
    shared = shared_length(chosen, rejected)
    own = None if marker is None else re.compile(re.escape(marker))
    for before, later in TURNS if own is None else [(own, own)]:
        ends = [found.end() for found in before.finditer(chosen, 0, shared)]
        if ends:
            if any(later.search(text, ends[-1]) for text in (chosen, rejected)):
                raise LeftOutError(PARTED)
            return ends[-1]
        if before.search(chosen) and before.search(rejected):
            raise LeftOutError(PARTED)
    if marker is not None:
        raise InvalidArgumentError(f"the response marker {marker!r} is not in what both sides begin with: check it")
    return None


def _line_start(chosen: str, rejected: str) -> int:
    """After the last line break that both begin with, where something is left of both."""
    most = min(shared_length(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
    return chosen.rfind("\n", 0, most) + 1


def roots(prompts: Sequence[str]) -> Mapping[str, str]:
    """For prompts cut by their lines: each one's shortest beginning that is a prompt itself.

    Two replies that share a line make a prompt of it; another row of the same question tells.
    """
    found: dict[str, str] = {}
    root = ""
    for prompt in sorted(set(prompts)):
        if not root.strip() or not prompt.startswith(root):
            root = prompt
        found[prompt] = root
    return found
