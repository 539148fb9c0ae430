"""Rows as data sets publish them, brought to {prompt, chosen, rejected}; those that are no pairs name their cure.

docs/preference-data.md shows a row of each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidArgumentError
from .implicit import LeftOutError
from .reading import PairReading, template_columns
from .texts import shared_length

Row = Mapping[str, Any]

SIDES = ("chosen", "rejected")
SYSTEMS = ("system", "system_prompt", "system_message")
# Where a question stands in rows that have no prompt.
QUESTIONS = ("question", "instruction", "input", "query", "problem", "post", "history", "context", "conversations")
TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


@dataclass(frozen=True, slots=True)
class Labelled:
    """Two responses and a label that says which was preferred: below ``middle`` the first, above it the second.

    ``labels`` names the label's column by what it prefers; ``prompt`` the column of the prompt.
    """

    first: str
    second: str
    labels: Mapping[str, str]
    middle: float = 0.0
    prompt: str = "prompt"

    def fits(self, row: Row) -> bool:
        return self.first in row and self.second in row and any(column in row for column in self.labels.values())

    def read(self, row: Row, preference: str | None) -> dict[str, Any]:
        """The row with prompt, chosen and rejected in place of its responses."""
        column = self._column(row, preference)
        value = _number(row[column], column)
        if value == self.middle:
            raise LeftOutError(f"{column} prefers neither response")
        order = (self.first, self.second) if value < self.middle else (self.second, self.first)
        taken = (self.first, self.second, self.prompt, column)
        others = {name: held for name, held in row.items() if name not in taken}
        return {**others, "prompt": row.get(self.prompt), "chosen": row[order[0]], "rejected": row[order[1]]}

    def _column(self, row: Row, preference: str | None) -> str:
        there = {name: column for name, column in self.labels.items() if column in row}
        if preference in there:
            return there[preference]
        columns = " and ".join(there.values())
        if len(there) > 1:
            raise InvalidArgumentError(
                f"the row has two labels, {columns}: choose by --preference {' or --preference '.join(there)}"
            )
        if preference is not None and len(self.labels) > 1:
            raise InvalidArgumentError(f"--preference {preference} was asked for and the row has {columns} alone")
        return next(iter(there.values()))


PUBLISHED = (
    # PKU-SafeRLHF: the id, 0 or 1, of the response preferred
    Labelled("response_0", "response_1", {"better": "better_response_id", "safer": "safer_response_id"}, middle=0.5),
    # HelpSteer2's and HelpSteer3's preferences: from -3, the first is much better, to 3
    Labelled("response_1", "response_2", {"better": "preference_strength"}),
    Labelled("response1", "response2", {"better": "overall_preference"}, prompt="context"),
)
# What rows with these columns want done before they are pairs.
CONVERSIONS: dict[tuple[str, ...], str] = {
    ("prompt", "completion", "label"): "jq -cs 'group_by(.prompt)[] | {prompt: .[0].prompt, chosen: "
    "map(select(.label))[0].completion, rejected: map(select(.label | not))[0].completion} | "
    "select(.chosen and .rejected)'",
    ("instruction", "completions"): "jq -c '(.completions | sort_by(.overall_score)) as $c | {prompt: .instruction, "
    "chosen: $c[-1].response, rejected: $c[0].response}'",
    ("prompt", "answers"): "jq -c '(.answers | sort_by(.rank)) as $a | {prompt, chosen: $a[0].answer, "
    "rejected: $a[-1].answer}'",
    ("history", "human_ref_A", "human_ref_B", "labels"): "jq -c '[.human_ref_A, .human_ref_B] as $r | "
    "{prompt: .history, chosen: $r[1 - .labels], rejected: $r[.labels]}'",
    ("conversation_a", "conversation_b", "winner"): 'jq -c \'if .winner == "model_a" then {chosen: .conversation_a, '
    'rejected: .conversation_b} elif .winner == "model_b" then {chosen: .conversation_b, rejected: .conversation_a} '
    "else empty end'",
    ("info", "summaries", "choice"): "jq -c '{prompt: .info.post, chosen: .summaries[.choice].text, "
    "rejected: .summaries[1 - .choice].text}'",
    (
        "instruction",
        "output_1",
        "output_2",
        "preference",
    ): "jq -c 'select(.preference != 1.5) | (.preference | round) as "
    "$p | [.output_1, .output_2] as $o | {prompt: .instruction, chosen: $o[$p - 1], rejected: $o[2 - $p]}'",
    ("prompt", "response", "helpfulness"): "jq -cs 'group_by(.prompt)[] | sort_by(.helpfulness) | "
    "select(.[0].helpfulness < .[-1].helpfulness) | {prompt: .[0].prompt, chosen: .[-1].response, "
    "rejected: .[0].response}'",
}
# Pairs under other names.
RENAMED = (
    ("question", "response_j", "response_k"),
    ("prompt", "accepted", "rejected"),
    ("prompt", "chosen_response", "rejected_response"),
)


def published(row: Row, reading: PairReading) -> dict[str, Any]:
    """A row with prompt, chosen and rejected, where it has them or a known data set's columns for them.

    Raises:
        InvalidArgumentError: rows that hold no pairs, or whose prompt stands where nothing would read it.
        LeftOutError: a label that prefers neither response.
    """
    found = _renamed(row, reading.columns)
    if not any(side in found for side in SIDES):
        found = _labelled(found, reading)
    template = reading.prompt_template
    if template is not None:
        others = {name: held for name, held in found.items() if name not in template_columns(template)}
        sides = {side: found[side] for side in SIDES if side in found}
        return {**others, **sides, "prompt": _written(template, found)}
    if found.get("prompt") in (None, "") and all(isinstance(found.get(side), str) for side in SIDES):
        found = _with_question(found)
    return found


def _renamed(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    missing = [column for column in columns.values() if column and column not in row]
    if missing:
        raise InvalidArgumentError(f"there is no column {missing[0]!r}, which --map or --prompt-column names")
    used = {*columns.values(), *columns}
    others = {name: held for name, held in row.items() if name not in used}
    return {**others, **{name: row[column] for name, column in columns.items() if column}}


def _labelled(row: dict[str, Any], reading: PairReading) -> dict[str, Any]:
    for form in PUBLISHED:
        if form.fits(row):
            found = form.read(row, reading.preference)
            return _turns(found) if "preference_strength" in row and reading.prompt_template is None else found
    for names in RENAMED:
        if all(name in row for name in names):
            maps = " ".join(
                f"--map {own}={name}" for own, name in zip(("prompt", *SIDES), names, strict=True) if own != name
            )
            raise InvalidArgumentError(f"the pairs stand in {', '.join(names)}: read them with {maps}")
    for needed, command in CONVERSIONS.items():
        if all(name in row for name in needed):
            raise InvalidArgumentError(
                f"rows of {', '.join(needed)} are no pairs: convert the file, as `{command} FILE > pairs.jsonl` does"
            )
    return row


def _turns(row: dict[str, Any]) -> dict[str, Any]:
    """HelpSteer2's prompts are turns of a user and an assistant, marked where there are several."""
    if not isinstance(row["prompt"], str):
        return row
    first, *rest = TURN.split(row["prompt"])
    messages = [{"role": "user", "content": first}]
    messages += [{"role": role.lower(), "content": text} for role, text in zip(rest[::2], rest[1::2], strict=True)]
    return {**row, "prompt": messages}


def _with_question(row: dict[str, Any]) -> dict[str, Any]:
    """A row of strings without a prompt: its question, read as a prompt beside a system column, else refused."""
    asked = [name for name in QUESTIONS if row.get(name)]
    if not asked or _is_shared(row[asked[0]], row):
        return row
    if len(asked) == 1 and any(name in row for name in SYSTEMS):
        others = {name: held for name, held in row.items() if name != asked[0]}
        return {**others, "prompt": row[asked[0]]}
    braces = "\\n".join(f"{{{name}}}" for name in reversed(asked) if isinstance(row[name], str))
    raise InvalidArgumentError(
        f"there is no prompt, and {' and '.join(asked)} would not be read, where the question seems to stand: name it "
        f"with --prompt-column {asked[0]}"
        + (f", or write the prompt of both with --prompt-template '{braces}\\n'" if len(asked) > 1 else "")
    )


def _is_shared(question: Any, row: Row) -> bool:
    """Whether what both sides begin with holds the question already."""
    chosen, rejected = (row[side] for side in SIDES)
    return isinstance(question, str) and question.strip() in chosen[: shared_length(chosen, rejected)]


def _written(template: str, row: Row) -> str:
    """A prompt by its template; null is nothing."""
    values = {}
    for name in template_columns(template):
        if name not in row:
            raise InvalidArgumentError(f"there is no column {name!r}, which the prompt template names")
        value = "" if row[name] is None else row[name]
        if not isinstance(value, str):
            raise InvalidArgumentError(
                f"{name} is of type {type(value).__name__}, and a prompt template takes texts: leave the template out "
                "and let the chat template write messages"
            )
        values[name] = value
    return template.format_map(values)


def _number(value: Any, column: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidArgumentError(
            f"{column} is {value!r:.40}, not a number: it says which response is preferred"
        ) from None
