"""The pairs of a run: which are trained on, which are held out, and what is said of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from training_cases import run_settings, write_pairs
from transformers import AutoTokenizer

from genarm.embedded import BASE
from genarm.errors import InvalidArgumentError
from genarm.preferences.pairs import PreferencePair
from genarm.preferences.rows import content_hash
from genarm.training.dataset import load_pairs, split


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(BASE)


def load(tokenizer: Any, data: str, **changes: Any) -> Any:
    return load_pairs(run_settings("base", data, **changes), tokenizer)


def many(count: int) -> list[PreferencePair]:
    return [PreferencePair(f"prompt {number // 3}", f"yes {number}", "no") for number in range(count)]


def test_a_share_of_the_prompts_is_held_out_and_no_prompt_is_on_both_sides() -> None:
    pairs = many(3000)
    train, held_out = split(pairs, 0.2)
    assert len(train) + len(held_out) == 3000 and 0.15 < len(held_out) / 3000 < 0.25
    assert not {pair.prompt for pair in train} & {pair.prompt for pair in held_out}
    assert train == [pair for pair in pairs if pair in train]


def test_the_side_of_a_pair_depends_on_its_prompt_alone() -> None:
    _, held_out = split(many(300), 0.3)
    _, of_some = split(many(90)[::-1], 0.3)
    assert of_some[::-1] == [pair for pair in held_out if pair in many(90)]
    _, more = split(many(300), 0.5)
    assert all(pair in more for pair in held_out)


def test_pairs_without_a_prompt_are_split_by_what_was_chosen() -> None:
    pairs = [PreferencePair("", f"yes {number}", f"no {side}") for number in range(200) for side in range(2)]
    train, held_out = split(pairs, 0.3)
    assert train and held_out and not {pair.chosen for pair in train} & {pair.chosen for pair in held_out}


def test_conversations_are_split_by_their_prompt() -> None:
    def turns(number: int) -> list[dict[str, Any]]:
        return [{"role": "user", "content": str(number)}]

    pairs = [PreferencePair(turns(number), f"yes {side}", "no") for number in range(100) for side in range(2)]
    train, held_out = split(pairs, 0.3)
    assert 100 < len(train) < 180 and not any(pair.prompt in [other.prompt for other in train] for pair in held_out)


def test_pairs_are_tokens_and_facts_of_the_file(tokenizer: Any, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "pairs.jsonl", 40)
    pairs = load(tokenizer, data, eval_share=0.25)
    assert len(pairs.train) + len(pairs.held_out) == 40 and pairs.held_out and not pairs.notes
    assert pairs.facts["data_sha256"] == content_hash(data)
    assert (pairs.facts["train"]["pairs"], pairs.facts["held out"]["pairs"]) == (len(pairs.train), len(pairs.held_out))
    lengths = [
        len(pair["prompt_ids"]) + len(pair[side])
        for pair in [*pairs.train, *pairs.held_out]
        for side in ("chosen_ids", "rejected_ids")
    ]
    assert pairs.longest == max(lengths)


def test_pairs_held_out_can_come_from_a_file_of_their_own(tokenizer: Any, tmp_path: Path) -> None:
    data, other = write_pairs(tmp_path / "a.jsonl", 20), write_pairs(tmp_path / "b.jsonl", 7, seed=1)
    pairs = load(tokenizer, data, eval_data=other, eval_share=0.5)
    assert (len(pairs.train), len(pairs.held_out)) == (20, 7)
    assert pairs.facts["eval_data_sha256"] == content_hash(other)


def test_conditions_and_limits_choose_rows(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "both.jsonl"
    parts = [write_pairs(tmp_path / f"{name}.jsonl", 10, objective=name) for name in ("art", "risk")]
    path.write_text("".join(Path(part).read_text() for part in parts))
    assert len(load(tokenizer, str(path)).train) == 20
    assert len(load(tokenizer, str(path), where={"objective": "risk"}).train) == 10
    assert len(load(tokenizer, str(path), where={"objective": "risk"}, limit=4).train) == 4
    with pytest.raises(InvalidArgumentError, match="objective is one of art, risk"):
        load(tokenizer, str(path), where={"objective": "luck"})


def test_what_is_cut_is_said(tokenizer: Any, tmp_path: Path) -> None:
    pairs = load(tokenizer, write_pairs(tmp_path / "pairs.jsonl", 10), max_length=12)
    assert pairs.longest == 12 and pairs.facts["train"]["responses_cut"] > 0
    assert len(pairs.notes) == 1 and pairs.notes[0].startswith("train: ") and "lost" in pairs.notes[0]


def test_a_share_that_leaves_nothing_to_train_on_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    digest = int.from_bytes(hashlib.sha256(json.dumps("p").encode()).digest()[:8], "big") / 2**64
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    with pytest.raises(InvalidArgumentError, match="no pairs are left to train on: lower the share"):
        load(tokenizer, str(path), eval_share=digest + 1e-6)
    assert len(load(tokenizer, str(path), eval_share=digest - 1e-6).train) == 1


def test_a_share_that_holds_nothing_out_is_said(tokenizer: Any, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "pairs.jsonl", 3)
    pairs = load(tokenizer, data, eval_share=1e-9)
    assert not pairs.held_out and ["nothing will be measured" in note for note in pairs.notes] == [True]
    assert not load(tokenizer, data, eval_share=0.0).notes


def test_pairs_that_truncation_makes_equal_leave_nothing(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "p", "chosen": "a b " * 9 + "c", "rejected": "a b " * 9 + "d"}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(InvalidArgumentError, match="no pair is left at max length 12"):
        load(tokenizer, str(path), max_length=12)
