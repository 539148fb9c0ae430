"""The pairs of a run: which are trained on, which are held out, and what is said of them."""

import hashlib
import json

import pytest
from training_cases import run_settings, write_pairs
from transformers import AutoTokenizer

from genarm.embedded import BASE
from genarm.errors import InvalidArgumentError
from genarm.preferences.pairs import PreferencePair
from genarm.preferences.rows import content_hash
from genarm.training.dataset import load_pairs, split


def load(data, **changes):
    paths = data if isinstance(data, tuple) else str(data)
    return load_pairs(run_settings("base", paths, **changes), AutoTokenizer.from_pretrained(BASE))


def many(count):
    return [PreferencePair(f"prompt {number // 3}", f"yes {number}", "no") for number in range(count)]


def test_a_share_of_the_prompts_is_held_out_and_no_prompt_is_on_both_sides():
    pairs = many(3000)
    train, held_out = split(pairs, 0.2)
    assert len(train) + len(held_out) == 3000 and 0.15 < len(held_out) / 3000 < 0.25
    own = {pair.prompt for pair in train}
    assert not own & {pair.prompt for pair in held_out} and train == [pair for pair in pairs if pair.prompt in own]


def test_the_side_of_a_pair_depends_on_its_prompt_alone():
    _, held_out = split(many(300), 0.3)
    _, of_some = split(many(90)[::-1], 0.3)
    assert of_some[::-1] == [pair for pair in held_out if pair in many(90)]
    _, more = split(many(300), 0.5)
    assert all(pair in more for pair in held_out)


def test_pairs_without_a_prompt_are_split_by_what_was_chosen_and_conversations_by_their_prompt():
    for text, pair in (
        (lambda pair: pair.chosen, lambda number, side: PreferencePair("", f"yes {number}", f"no {side}")),
        (
            lambda pair: pair.prompt[0]["content"],
            lambda number, side: PreferencePair([{"role": "user", "content": str(number)}], f"yes {side}", "no"),
        ),
    ):
        sides = split([pair(number, side) for number in range(100) for side in range(2)], 0.3)
        train, held_out = ({text(pair) for pair in pairs} for pairs in sides)
        assert 50 < len(train) < 90 and len(train) + len(held_out) == 100


def test_pairs_are_tokens_and_facts_of_the_file(tmp_path):
    data = write_pairs(tmp_path / "pairs.jsonl", 40)
    pairs = load(data, eval_share=0.25)
    assert len(pairs.train) + len(pairs.held_out) == 40 and pairs.held_out and not pairs.notes
    assert pairs.facts["data_sha256"] == content_hash(data)
    assert (pairs.facts["train"]["pairs"], pairs.facts["held out"]["pairs"]) == (len(pairs.train), len(pairs.held_out))
    both = [*pairs.train, *pairs.held_out]
    lengths = [len(pair["prompt_ids"]) + len(pair[side]) for pair in both for side in ("chosen_ids", "rejected_ids")]
    assert pairs.longest == max(lengths)
    with pytest.raises(InvalidArgumentError, match="there is no column objective"):
        load(data, where={"objective": "luck"})
    assert len(load(data, limit=4).train) == 4


def test_held_out_pairs_can_come_from_a_file_of_their_own(data, held_out):
    pairs = load(data, eval_data=held_out, eval_share=0.5)
    assert (len(pairs.train), len(pairs.held_out)) == (20, 7)
    assert pairs.facts["eval_data_sha256"] == content_hash(held_out)


def test_several_data_sets_are_one_after_the_other_and_weighed(data, tmp_path):
    other = write_pairs(tmp_path / "other.jsonl", 10, seed=1)
    (first, second), both = (load(path).train for path in (data, other)), load((data, other)).train
    assert both == first + second and load((other, data)).train == second + first
    assert load((data, other), limit=3).train == first[:3] + second[:3]
    mixed = load((data, other), data_weights=(2.0, 0.5)).train
    half = mixed[2 * len(first) :]
    assert mixed[: 2 * len(first)] == first * 2 and len(half) == 5 and all(pair in second for pair in half)
    held_out = load((data, other), data_weights=(3.0, 3.0), eval_share=0.5).held_out
    assert held_out == load((data, other), eval_share=0.5).held_out  # measured on once
    assert load((data, other)).facts["data_sha256"] != load(data).facts["data_sha256"]
    for weights, reason in (
        ((1.0,), "1 data weights were given for 2"),
        ((1.0, 0.0), "not above 0"),
        ((1.0, 0.04), "other.jsonl: the data weight 0.04 takes none of its 10 pairs"),
    ):
        with pytest.raises(InvalidArgumentError, match=reason):
            load((data, other), data_weights=weights)
    assert len(load(data, eval_data=(data, other)).held_out) == 30


def test_what_is_cut_is_said(data, tmp_path):
    pairs = load(data, max_length=12)
    assert pairs.longest == 12 and pairs.facts["train"]["responses_cut"] > 0
    assert len(pairs.notes) == 1 and pairs.notes[0].startswith("train: ") and "lost" in pairs.notes[0]
    equal = {"prompt": "p", "chosen": "a b " * 9 + "c", "rejected": "a b " * 9 + "d"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(equal))
    with pytest.raises(InvalidArgumentError, match="no pair is left at max length 12"):
        load(tmp_path / "pairs.jsonl", max_length=12)


def test_a_share_that_leaves_nothing_is_refused_and_one_that_holds_nothing_out_is_said(data, tmp_path):
    digest = int.from_bytes(hashlib.sha256(json.dumps("p").encode()).digest()[:8], "big") / 2**64
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    with pytest.raises(InvalidArgumentError, match="no pairs are left to train on: lower the share"):
        load(path, eval_share=digest + 1e-6)
    assert len(load(path, eval_share=digest - 1e-6).train) == 1
    pairs = load(data, eval_share=1e-9)
    assert not pairs.held_out and ["nothing will be measured" in note for note in pairs.notes] == [True]
    assert not load(data, eval_share=0.0).notes
