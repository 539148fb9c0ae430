"""A language model's verdicts: each answer against the reference's to the same prompt, in both orders.

What an endpoint replied is kept in one file of lines, each under a digest of what it was asked; nothing is asked twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from .alpaca import instruction
from .answered import Answered
from .answers import Answer
from .endpoint import Endpoint, Message

MOST_TOKENS = 16  # of a reply
CRITERION = "helps the person who wrote the instruction more, and is correct and harmless"
VERDICT = re.compile(r"\W*(?:answer\W+)?(A|B|T|tie)(?:\W*$|[.:,]|\W*\n)", re.IGNORECASE)
QUESTION = """\
Two answers were given to one instruction. Say which of them {criterion}.

<instruction>
{instruction}
</instruction>

<answer_A>
{first}
</answer_A>

<answer_B>
{second}
</answer_B>

Let neither their order nor their length influence you. Reply with one letter and nothing else: A or B, or T where
neither is better."""


@dataclass(frozen=True, slots=True)
class PairQuestion:
    """One comparison in one order: ``swapped`` where the reference's answer stands first."""

    model: str
    answer: Answer
    reference: Answer
    swapped: bool
    criterion: str = CRITERION

    def messages(self) -> list[Message]:
        texts = (self.answer.text, self.reference.text)
        first, second = texts[::-1] if self.swapped else texts
        text = QUESTION.format(
            criterion=self.criterion, instruction=instruction(self.answer.prompt), first=first, second=second
        )
        return [{"role": "user", "content": text}]

    def key(self, address: str) -> str:
        asked = json.dumps([address, self.model, self.messages(), MOST_TOKENS], ensure_ascii=False)
        return hashlib.sha256(asked.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one answer: 1 preferred, 0 the reference preferred, ½ neither, None where the reply cannot be
    read; with the answer first, and with the reference first."""

    model: str
    answer: Answer
    reference: Answer
    orders: tuple[float | None, float | None]

    @property
    def preference(self) -> float | None:
        """The mean of both orders, None unless both can be read."""
        first, second = self.orders
        return None if first is None or second is None else (first + second) / 2


def preference_of(reply: str, swapped: bool) -> float | None:
    """1, 0 or ½ for the method of a question from the judge's reply; None where it names no letter alone."""
    found = VERDICT.match(reply)
    if found is None:
        return None
    letter = found[1].upper()
    if letter.startswith("T"):
        return 0.5
    return float((letter == "B") == swapped)


def judge(
    endpoint: Endpoint,
    models: Sequence[str],
    answers: Sequence[Answer],
    reference: str,
    kept: Answered,
    criterion: str = CRITERION,
    workers: int = 4,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Verdict]:
    """Every model's verdict on every answer of another method than ``reference``. Failed answers are left out.

    Args:
        kept: where replies are, and go as they come.
        report: called with how many of the questions that were open are answered.

    Raises:
        RunError: the endpoint cannot be asked; what it replied so far is kept.
    """
    asked = [
        PairQuestion(model, answer, other, swapped, criterion)
        for model in models
        for answer, other in opponents(answers, reference)
        for swapped in (False, True)
    ]
    replies = {key: row["reply"] for key, row in kept.rows.items()}
    keys = [question.key(endpoint.address) for question in asked]
    unanswered = {key: one for key, one in zip(keys, asked, strict=True) if key not in replies}
    for done, (key, question, reply) in enumerate(_replies(endpoint, unanswered, workers), 1):
        kept.append({"key": key, "model": question.model, "reply": reply})
        replies[key] = reply
        report(done, len(unanswered))
    read = [preference_of(replies[key], question.swapped) for key, question in zip(keys, asked, strict=True)]
    return [
        Verdict(question.model, question.answer, question.reference, (read[place], read[place + 1]))
        for place, question in enumerate(asked)
        if not question.swapped
    ]


def opponents(answers: Sequence[Answer], reference: str) -> Iterator[tuple[Answer, Answer]]:
    """Each answer of another method with the reference's to the same prompt under the same seed."""
    own = {(answer.prompt_id, answer.seed): answer for answer in answers if answer.method == reference}
    for answer in answers:
        other = own.get((answer.prompt_id, answer.seed))
        if answer.method != reference and other is not None and not answer.failed and not other.failed:
            yield answer, other


def _replies(
    endpoint: Endpoint, questions: dict[str, PairQuestion], workers: int
) -> Iterator[tuple[str, PairQuestion, str]]:
    """Replies as they come. After a failure nothing more is asked."""
    pool = ThreadPoolExecutor(workers)
    running: dict[Future[str], tuple[str, PairQuestion]] = {}
    try:
        for key, question in questions.items():
            call = pool.submit(endpoint.ask, question.model, question.messages(), MOST_TOKENS)
            running[call] = (key, question)
        for call in as_completed(running):
            yield *running[call], call.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def as_rows(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as JSON has them."""
    return [
        {
            "judge": verdict.model,
            "method": verdict.answer.method,
            "reference": verdict.reference.method,
            "id": verdict.answer.prompt_id,
            "seed": verdict.answer.seed,
            "answer_first": verdict.orders[0],
            "reference_first": verdict.orders[1],
        }
        for verdict in verdicts
    ]
