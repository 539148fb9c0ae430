"""Files of pairs with their clusters, columns and what truncation dropped."""

import json

import pytest

from genarm.embedded import BASE
from genarm.errors import InvalidArgumentError
from genarm.evaluation.pair_sets import clusters_of, read_set
from genarm.preferences.chat import pair_tokenizer
from genarm.preferences.pairs import PreferencePair

ROWS = [
    {"prompt": "p ", "chosen": "I like art", "rejected": "I like sports", "kind": "x", "level": 1},
    {"prompt": "p ", "chosen": "I paint", "rejected": "I run and I swim", "kind": "y", "level": 2},
    {"prompt": "", "chosen": "I paint", "rejected": "I do not", "kind": "x", "level": 1},
    {"prompt": "", "chosen": "I paint", "rejected": "I never paint", "kind": "y", "level": 2},
]


@pytest.fixture
def read(tmp_path):
    def read(rows, **options):
        path = tmp_path / "pairs.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return read_set("own", str(path), pair_tokenizer(str(BASE)), **options)

    return read


def test_pairs_share_their_prompt_or_without_one_their_chosen_response():
    pairs = [PreferencePair(row["prompt"], row["chosen"], row["rejected"], row) for row in ROWS]
    a, b, c, d = clusters_of(pairs, None)
    assert a == b and c == d and a != c
    assert len(set(clusters_of(pairs, "prompt"))) == 2
    assert clusters_of(pairs, "chosen") == ["I like art", "I paint", "I paint", "I paint"]
    assert clusters_of(pairs, "level") == ["1", "2", "1", "2"]
    assert len(set(clusters_of(pairs, "none"))) == 4
    prompt = [{"role": "user", "content": "hi"}]
    chats = [PreferencePair(prompt, "a", "b"), PreferencePair(list(prompt), "c", "d"), PreferencePair("hi", "c", "d")]
    a, b, c = clusters_of(chats, None)
    assert a == b != c


def test_a_set_holds_what_where_limit_and_truncation_keep_and_counts_what_is_dropped(read):
    found = read(ROWS, where={"kind": "y"}, by="level")
    assert len(found.pairs) == len(found.clusters) == 2 and found.values == ["2", "2"]
    assert found.lengths.tolist() == [[len(pair["chosen_ids"]), len(pair["rejected_ids"])] for pair in found.pairs]
    assert (found.dropped, found.note, len(read(ROWS, limit=3).pairs)) == (0, "", 3)
    long = "I like art and music and painting and reading and physics and "
    row = {"chosen": long + "sports", "rejected": long + "games", "prompt": "", "kind": "z"}
    found = read([row, *ROWS[:2]], max_length=8, by="kind")
    assert found.dropped == 1 and "1 pair" in found.note
    assert len(found.pairs) == 2 and found.values == ["x", "y"] and len(found.clusters) == 2
    with pytest.raises(InvalidArgumentError, match="no pair is left at --max-length 8"):
        read([row], max_length=8)
    with pytest.raises(InvalidArgumentError, match=r"no column 'sort'.*kind, level"):
        read(ROWS, cluster="sort")
