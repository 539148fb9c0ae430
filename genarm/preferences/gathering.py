"""The pairs of one data set as its rows are read, and an account of the rows that gave none."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import InvalidArgumentError
from .formats import SYSTEMS
from .implicit import EMPTY, LeftOutError, roots
from .pair import PreferencePair, pair_of
from .reading import PairReading

SHOWN = 3
# Columns that other trainers read.
UNREAD = {
    "weight": "every pair counts the same; repeat a row to weigh it",
    "weights": "every pair counts the same; repeat a row to weigh it",
    "sample_weight": "every pair counts the same; repeat a row to weigh it",
    "docs": "write the documents into the prompt",
    "documents": "write the documents into the prompt",
}


class Gathering:
    """The pairs of one data set as they are read, with the rows that gave none."""

    def __init__(self, path: str, reading: PairReading) -> None:
        self.path, self.reading = path, reading
        self.found: list[PreferencePair] = []
        self.by_lines: list[int] = []
        self.asked: list[int] = []
        self.left_out: Counter[str] = Counter()
        self.bad: dict[str, list[int]] = {}
        self.columns: dict[str, None] = {}
        self.read: dict[str, None] = {}

    def take(self, number: int, row: Mapping[str, Any]) -> None:
        try:
            pair, origin = pair_of(row, self.reading)
        except LeftOutError as error:
            self.left_out[str(error)] += 1
            return
        except InvalidArgumentError as error:
            self.bad.setdefault(str(error), []).append(number)
            self.columns.update(dict.fromkeys(row))
            return
        if pair.chosen == pair.rejected:
            self.left_out["chosen equals rejected"] += 1
            return
        if origin == "lines":
            self.by_lines.append(len(self.found))
        elif origin == "column" and pair.prompt and isinstance(pair.prompt, str):
            self.asked.append(len(self.found))
        self.read.update((name, None) for name in pair.columns if pair.columns[name] not in (None, ""))
        self.found.append(replace(pair, source=f"{self.path}, row {number}"))

    def pairs(self) -> list[PreferencePair]:
        """What was read, or an error; what was left out is said."""
        self._judge_bad_rows()
        self._speak_of_columns()
        self._unite_prompts()
        self._strip_repeated_prompts()
        count = len(self.found) + self.left_out.total()
        if not self.found:
            reasons = " or ".join(self.left_out)
            raise InvalidArgumentError(f"{self.path}: {reasons} in every pair: nothing can be learned from them")
        self._speak_of_empty_prompts()
        for reason, number in self.left_out.items():
            self._say(f"{reason} in {number} of {count} pairs, left out")
        return self.found

    def _say(self, text: str) -> None:
        warnings.warn(f"{self.path}: {text}", stacklevel=5)

    def _judge_bad_rows(self) -> None:
        if not self.bad:
            return
        count = sum(len(numbers) for numbers in self.bad.values())
        listed = "; ".join(f"{_rows(numbers)}: {reason}" for reason, numbers in list(self.bad.items())[:SHOWN])
        more = len(self.bad) - SHOWN
        listed += f"; and {more} more kinds of fault" if more > 0 else ""
        if self.reading.skip_bad_rows and (self.found or self.left_out):
            self._say(f"{count} rows that are no pairs are left out: {listed}")
            return
        skip = "" if not self.found or self.reading.skip_bad_rows else "; --skip-bad-rows leaves such rows out"
        raise InvalidArgumentError(f"{self.path}, {listed} (the columns are {', '.join(self.columns)}){skip}")

    def _speak_of_columns(self) -> None:
        """A system column makes turns of all prompts; other columns that would matter are named."""
        system = next((name for name in SYSTEMS if name in self.read), None)
        if system is not None and self.reading.prompt_template is None:
            self._say(
                f"{system} is read as the system turn of the chat template and a prompt in text as the user's; "
                f"--prompt-template writes both as text, --map {system}= passes it by"
            )
            for place in self.asked:
                pair = self.found[place]
                if isinstance(pair.prompt, str):
                    self.found[place] = replace(pair, prompt=[{"role": "user", "content": pair.prompt}])
        for name in self.read:
            if name in UNREAD:
                self._say(f"the column {name} is not read: {UNREAD[name]}")

    def _unite_prompts(self) -> None:
        """Where only shared lines told prompts, the shortest one of a question is that of all its rows."""
        own = roots([str(self.found[place].prompt) for place in self.by_lines])
        for place in self.by_lines:
            pair = self.found[place]
            assert isinstance(pair.prompt, str)
            moved = pair.prompt[len(own[pair.prompt]) :]
            self.found[place] = replace(
                pair, prompt=own[pair.prompt], chosen=f"{moved}{pair.chosen}", rejected=f"{moved}{pair.rejected}"
            )
        guessed = sum(1 for place in self.by_lines if self.found[place].prompt)
        if guessed:
            self._say(
                f"{guessed} of {len(self.found)} rows have no prompt, and nothing known says where replies begin: the "
                "lines that both sides begin with are taken for it; if replies begin alike, name the text before them "
                "with --response-marker"
            )

    def _speak_of_empty_prompts(self) -> None:
        """Data without any prompts may be meant; prompts that some rows lack, or that were asked for, hardly are."""
        empty = sum(1 for pair in self.found if not pair.prompt)
        if empty and (empty < len(self.found) or self.reading.columns.get("prompt")):
            self._say(f"{empty} of {len(self.found)} pairs have an empty prompt, and are read as texts without one")

    def _strip_repeated_prompts(self) -> None:
        """Responses in text that begin with their own prompt: as a rule of the data, or by chance in a few rows."""
        asked, twice = self.asked, [place for place in self.asked if _repeats(self.found[place])]
        if not twice:
            return
        if 2 * len(twice) < len(asked):
            self._say(f"both responses begin with the prompt in {len(twice)} of {len(asked)} pairs, which are left so")
            return
        self._say(f"both responses begin with the prompt in {len(twice)} of {len(asked)} pairs, where it is read once")
        for place in twice:
            pair = self.found[place]
            cut = len(pair.prompt)
            self.found[place] = replace(pair, chosen=pair.chosen[cut:], rejected=pair.rejected[cut:])
        empty = {place for place in twice if not (self.found[place].chosen and self.found[place].rejected)}
        if empty:
            self.left_out[EMPTY] += len(empty)
        self.found = [pair for place, pair in enumerate(self.found) if place not in empty]


def _repeats(pair: PreferencePair) -> bool:
    return all(isinstance(text, str) and text.startswith(str(pair.prompt)) for text in (pair.chosen, pair.rejected))


def _rows(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"row {numbers[0]}"
    shown = ", ".join(map(str, numbers[: SHOWN + 2]))
    return f"rows {shown}" + (f" and {len(numbers) - SHOWN - 2} more" if len(numbers) > SHOWN + 2 else "")
