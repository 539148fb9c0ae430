"""Rows on disk become token sequences whose labels are the response and its end, and nothing else."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import genarm
from genarm.training.data import (
    IGNORED,
    PairCollator,
    PreferencePair,
    StatementCollator,
    encode_pairs,
    encode_response,
    read_pairs,
    read_rows,
)

ASSETS = Path(genarm.__file__).parent / "assets"
PAIRS = [PreferencePair("", "I like art", "no"), PreferencePair("Tell me:", "yes", "I would rather not say")]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ASSETS / "base")


def test_rows_are_read_plain_and_gzipped(tmp_path):
    rows = [{"chosen": "a é 🎨", "rejected": "b"}, {"chosen": "c", "rejected": "d"}]
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert read_rows(tmp_path / "rows.jsonl") == read_rows(tmp_path / "rows.jsonl.gz") == rows


def test_a_broken_row_is_named_by_its_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"chosen": 1}\n{"chosen": \n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        read_rows(tmp_path / "rows.jsonl")


def test_pairs_are_selected_by_their_other_columns(tmp_path):
    rows = [
        {"objective": "x", "prompt": "p", "chosen": "a", "rejected": "b"},
        {"objective": "y", "chosen": "c", "rejected": "d"},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read_pairs(tmp_path / "pairs.jsonl", objective="y") == [PreferencePair("", "c", "d")]
    assert len(read_pairs(tmp_path / "pairs.jsonl")) == 2


def test_pairs_without_a_rejected_response_are_refused(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"chosen": "a"}', encoding="utf-8")
    with pytest.raises(ValueError, match="without rejected"):
        read_pairs(tmp_path / "pairs.jsonl")


def test_a_response_ends_in_eos_and_its_prompt_is_counted_apart(tokenizer):
    ids, prompt_length = encode_response(tokenizer, "Tell me:", "yes")
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[1:prompt_length]) == "Tell me:"
    assert tokenizer.decode(ids[prompt_length:-1]) == "yes"


def test_a_long_prompt_is_cut_from_its_front(tokenizer):
    whole, whole_prompt = encode_response(tokenizer, "one two three four five six", "yes")
    cut, cut_prompt = encode_response(tokenizer, "one two three four five six", "yes", max_length=len(whole) - 2)
    assert len(cut) == len(whole) - 2 and cut_prompt == whole_prompt - 2
    assert cut == whole[:1] + whole[3:]


def test_a_response_that_fills_max_length_leaves_no_prompt(tokenizer):
    response = encode_response(tokenizer, "", "yes")[0]
    assert encode_response(tokenizer, "one two", "yes", max_length=len(response)) == (response, 1)
    with pytest.raises(ValueError, match="does not fit"):
        encode_response(tokenizer, "", "yes", max_length=len(response) - 1)


def test_labels_are_the_response_and_eos_and_never_prompt_or_padding(tokenizer):
    encoded = encode_pairs(tokenizer, PAIRS)
    batch = PairCollator(tokenizer.pad_token_id)(encoded)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert batch["input_ids"].shape[0] == 2 * len(PAIRS)
    texts = [pair.chosen for pair in PAIRS] + [pair.rejected for pair in PAIRS]
    for labels, text in zip(batch["labels"], texts, strict=True):
        kept = labels[labels != IGNORED].tolist()
        assert kept[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(kept[:-1]) == text


def test_padding_is_masked_to_the_longest_row_and_no_further(tokenizer):
    encoded = encode_pairs(tokenizer, PAIRS)
    batch = PairCollator(tokenizer.pad_token_id)(encoded)
    lengths = [len(item[f"{side}_ids"]) for side in ("chosen", "rejected") for item in encoded]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert batch["input_ids"].shape[1] == max(lengths)
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()


def test_statements_are_labelled_whole():
    batch = StatementCollator(9)([{"input_ids": [0, 5, 1]}, {"input_ids": [0, 1]}])
    assert batch["input_ids"].tolist() == [[0, 5, 1], [0, 1, 9]]
    assert batch["labels"].tolist() == [[0, 5, 1], [0, 1, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
