"""Files of pairs with their clusters, columns and what truncation dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genarm.embedded import BASE
from genarm.errors import InvalidArgumentError
from genarm.evaluation.pair_sets import clusters_of, read_set
from genarm.preferences.chat import pair_tokenizer
from genarm.preferences.pairs import PreferencePair


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return pair_tokenizer(str(BASE))


def file_of(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


ROWS = [
    {"prompt": "p", "chosen": "I like art", "rejected": "I like sports", "kind": "x", "level": 1},
    {"prompt": "p", "chosen": "I paint", "rejected": "I run and I swim", "kind": "y", "level": 2},
    {"prompt": "", "chosen": "I paint", "rejected": "I do not", "kind": "x", "level": 1},
    {"prompt": "", "chosen": "I paint", "rejected": "I never paint", "kind": "y", "level": 2},
]


def test_pairs_share_their_prompt_or_without_one_their_chosen_response() -> None:
    pairs = [PreferencePair(row["prompt"], row["chosen"], row["rejected"], row) for row in ROWS]
    a, b, c, d = clusters_of(pairs, None)
    assert a == b and c == d and a != c
    assert len(set(clusters_of(pairs, "prompt"))) == 2
    assert clusters_of(pairs, "chosen") == ["I like art", "I paint", "I paint", "I paint"]
    assert clusters_of(pairs, "level") == ["1", "2", "1", "2"]
    assert len(set(clusters_of(pairs, "none"))) == 4


def test_chat_prompts_are_clusters_too() -> None:
    prompt = [{"role": "user", "content": "hi"}]
    pairs = [PreferencePair(prompt, "a", "b"), PreferencePair(list(prompt), "c", "d"), PreferencePair("hi", "c", "d")]
    a, b, c = clusters_of(pairs, None)
    assert a == b != c


def test_a_set_holds_what_where_keeps_up_to_the_limit(tokenizer: Any, tmp_path: Path) -> None:
    path = file_of(tmp_path, ROWS)
    found = read_set("own", path, tokenizer, where={"kind": "y"}, by="level")
    assert len(found.pairs) == len(found.clusters) == 2 and found.values == ["2", "2"]
    assert found.lengths.tolist() == [[len(pair["chosen_ids"]), len(pair["rejected_ids"])] for pair in found.pairs]
    assert read_set("own", path, tokenizer, limit=3).values is None
    assert len(read_set("own", path, tokenizer, limit=3).pairs) == 3
    assert found.dropped == 0 and found.note == ""


def test_pairs_that_truncation_drops_are_counted_and_leave_no_trace(tokenizer: Any, tmp_path: Path) -> None:
    long = "I like art and music and painting and reading and physics and "
    rows = [{"chosen": long + "sports", "rejected": long + "games", "prompt": "", "kind": "z"}, *ROWS[:2]]
    found = read_set("own", file_of(tmp_path, rows), tokenizer, max_length=8, by="kind")
    assert found.dropped == 1 and "1 pair" in found.note
    assert len(found.pairs) == 2 and found.values == ["x", "y"] and len(found.clusters) == 2


def test_a_column_that_is_not_there_is_an_error_that_names_those_that_are(tokenizer: Any, tmp_path: Path) -> None:
    path = file_of(tmp_path, ROWS)
    with pytest.raises(InvalidArgumentError, match=r"no column 'sort'.*kind, level"):
        read_set("own", path, tokenizer, by="sort")
    with pytest.raises(InvalidArgumentError, match=r"no column 'sort'"):
        read_set("own", path, tokenizer, cluster="sort")
