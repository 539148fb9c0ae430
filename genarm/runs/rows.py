"""The input of a run as rows, one per text to be written, and complaints about entries that are none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from .formats import Item, read_bytes, read_items

RowId = str | int
RowKey = RowId | tuple[RowId, int]
Prompt = str | list[int] | list[dict[str, Any]]  # text, token ids, chat messages

# Keywords of GuidedDecoder.generate that a row may set for itself.
OWN_SETTINGS = (
    "beta", "base_weight", "temperature", "top_k", "top_p", "min_p", "base_min_p", "base_top_p", "repetition_penalty",
    "seed", "max_new_tokens", "stop", "guide_when", "preferences",
)  # fmt: skip
# Settings by other names or of other programs -> what to do. They would change the text, so they are never just kept.
REFUSED_SETTINGS = {
    "max_tokens": "write max_new_tokens",
    "max_length": "write max_new_tokens",
    "max_completion_tokens": "write max_new_tokens",
    "stop_strings": "write stop",
    "stop_token_ids": "write stop, as lists of ids",
    "num_return_sequences": "use the option -n, which holds for all rows",
    **{
        name: f"use the option --{name.replace('_', '-')}, which holds for all rows"
        for name in ("particles", "resample_below", "resample_every", "length_bonus", "terminal", "speculate")
    },
    **dict.fromkeys(
        ("do_sample", "num_beams", "best_of", "min_new_tokens", "min_tokens", "no_repeat_ngram_size",
         "presence_penalty", "frequency_penalty", "typical_p", "logit_bias", "allowed_tokens", "eos_token_id",
         "reward_prompts", "tools", "chat_template_kwargs"),
        "leave it out",
    ),
}  # fmt: skip
COUNTS = ("drafted", "accepted", "draft_steps")  # of a text that was written by speculation
# What a run writes itself; a column of the input by one of these names is kept with "input_" before it.
WRITTEN = (
    "sample", "text", "token_count", "guided_count", "logprob_sum", "logprob_sums", "score", "log_evidence",
    "finish_reason", "error", *COUNTS,
)  # fmt: skip


def refuse_settings(own: Mapping[str, Any]) -> None:
    """Raise InvalidArgumentError for what a row sets and cannot."""
    for name in own.keys() & REFUSED_SETTINGS.keys():
        raise InvalidArgumentError(f"the row sets {name}, which a row cannot do here: {REFUSED_SETTINGS[name]}")


@dataclass(frozen=True, slots=True)
class Row:
    """One text to be written.

    index: the place of its entry counted from 0 (times the samples per prompt), which picks its seed.
    prompt: text, chat messages or token ids; ``weights`` and ``settings`` are its own, as given.
    columns: what else stood in the entry, settings included, which goes into the output.
    sample: which of several texts for one prompt, counted from 1; None where there is one.
    """

    index: int
    id: RowId
    prompt: Prompt
    weights: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    sample: int | None = None

    @property
    def key(self) -> RowKey:
        return self.id if self.sample is None else (self.id, self.sample)

    @property
    def head(self) -> dict[str, Any]:
        """What its row in the output begins with."""
        is_chat = isinstance(self.prompt, list) and any(isinstance(message, dict) for message in self.prompt)
        sample = {} if self.sample is None else {"sample": self.sample}
        return {"id": self.id, **sample, "messages" if is_chat else "prompt": self.prompt, **self.columns}


@dataclass(frozen=True, slots=True)
class RunInput:
    """All rows of a run. ``problems`` says what is wrong with each entry that holds no usable row; ``digest`` is
    "sha256:…" of the content, unpacked."""

    name: str
    rows: list[Row]
    problems: list[str]
    digest: str

    def sampled(self, count: int) -> RunInput:
        """Every row ``count`` times, as samples 1, 2, …"""
        if count == 1:
            return self
        rows = [
            replace(row, index=row.index * count + sample, sample=sample + 1)
            for row in self.rows
            for sample in range(count)
        ]
        return replace(self, rows=rows)


def read_input(path: Path) -> RunInput:
    """Read a file of prompts, or the standard input for ``-`` (formats.py says which formats).

    Entries that hold no row, or repeat an id, are left out and listed in ``problems``. ``id`` defaults to the entry's
    number.

    Raises:
        RunError: the file is missing, unreadable, of another format, or holds nothing.
    """
    name, data = read_bytes(path)
    rows: list[Row] = []
    problems: list[str] = []
    seen: dict[RowId, str] = {}
    for item in read_items(path, name, data):
        try:
            row = _row(item)
            if row.id in seen:
                raise ValueError(f"has the id {row.id!r} of {seen[row.id]}: give every row an id of its own")
        except ValueError as error:
            problems.append(f"{name} {item.place} {error} (the {item.place.split()[0]} is left out)")
            continue
        seen[row.id] = item.place
        rows.append(row)
    return RunInput(name, rows, problems, f"sha256:{hashlib.sha256(data).hexdigest()}")


def prompt_rows(prompts: Sequence[str]) -> RunInput:
    """The rows of prompts given on the command line, numbered from 1."""
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise InvalidArgumentError(f"the prompt {prompt!r} is not UTF-8: pass text") from None
    digest = f"sha256:{hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()}"
    return RunInput("prompts", [Row(index, index + 1, prompt) for index, prompt in enumerate(prompts)], [], digest)


def row_key(written: Mapping[str, Any]) -> RowKey:
    """The key of the row that an output's row was written for."""
    return (written["id"], written["sample"]) if "sample" in written else written["id"]


def _row(item: Item) -> Row:
    """An entry as a row, or a ValueError whose text continues "line 3 "."""
    value, index = item.value, item.number - 1
    if isinstance(value, ValueError):
        raise value
    if isinstance(value, str):
        return Row(index, index + 1, value)
    if not isinstance(value, dict):
        raise ValueError(f"is {_kind(value)}, not an object: write rows like {{'prompt': 'text'}}")
    prompt, row_id = _prompt(value), value.get("id")
    if row_id is None:
        row_id = index + 1
    if isinstance(row_id, bool) or not isinstance(row_id, str | int):
        raise ValueError(f"has an id that is {_kind(row_id)}: ids are text or integers")
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no text: repair its \\u escapes") from None
    except ValueError:
        raise ValueError("holds NaN or an infinity, which JSON has not: write null or a number") from None
    rest = {name: one for name, one in value.items() if name not in ("id", "prompt", "messages", "weights")}
    columns = {f"input_{name}" if name in WRITTEN else name: one for name, one in rest.items()}
    settings = {name: one for name, one in rest.items() if name in (*OWN_SETTINGS, *REFUSED_SETTINGS)}
    settings = {name: one for name, one in settings.items() if one is not None}
    return Row(index, row_id, prompt, value.get("weights"), settings, columns)


def _prompt(value: dict[str, Any]) -> Prompt:
    given = [name for name in ("prompt", "messages") if value.get(name) is not None]
    if len(given) > 1:
        raise ValueError("has both a prompt and messages: choose one of them")
    if not given:
        found = "" if "prompt" not in value else " but null"
        names = ", ".join(map(repr, value)) or "none"
        raise ValueError(f"has no prompt{found} (its columns: {names}): give every row a prompt or messages")
    prompt = value[given[0]]
    if isinstance(prompt, str) and given == ["prompt"]:
        return prompt
    if isinstance(prompt, list) and prompt:
        if all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in prompt):
            if not all("content" in one or "tool_calls" in one for one in prompt):
                raise ValueError("has a message without content: write {'role': 'user', 'content': 'text'}")
            return prompt
        if given == ["prompt"] and all(isinstance(one, int) and not isinstance(one, bool) for one in prompt):
            return prompt
        if all(isinstance(one, str) for one in prompt):
            raise ValueError(f"has a list of texts as its {given[0]}: write one row per prompt")
    forms = "messages like {'role': 'user', 'content': 'text'}"
    if given == ["messages"]:
        raise ValueError(f"has messages that are {_kind(prompt)} of another form: write {forms}")
    raise ValueError(f"has a prompt that is {_kind(prompt)}: write text, token ids, or {forms}")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
