"""A batch holds the chosen sequences, then the rejected ones; labels are responses and nothing else."""

import pytest
import torch
from chat_families import FAMILIES, make_tokenizer

from genarm.preferences.collate import IGNORED, PairCollator, StatementCollator
from genarm.preferences.encoding import EncodedPair, encode_pairs
from genarm.preferences.pairs import PreferencePair

PAIRS = [
    EncodedPair(prompt_ids=[0], chosen_ids=[5, 1], rejected_ids=[6, 6, 6, 1]),
    EncodedPair(prompt_ids=[0, 7, 8], chosen_ids=[9, 1], rejected_ids=[1]),
]


def test_rows_are_chosen_then_rejected_padded_to_the_longest():
    batch = PairCollator(2)(PAIRS)
    assert batch["input_ids"].tolist() == [[0, 5, 1, 2, 2], [0, 7, 8, 9, 1], [0, 6, 6, 6, 1], [0, 7, 8, 1, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5, [1] * 5, [1, 1, 1, 1, 0]]
    ignored = IGNORED
    assert batch["labels"].tolist() == [
        [ignored, 5, 1, ignored, ignored],
        [ignored, ignored, ignored, 9, 1],
        [ignored, 6, 6, 6, 1],
        [ignored, ignored, ignored, 1, ignored],
    ]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_a_width_can_be_rounded_up_in_every_tensor():
    batch, wide = PairCollator(2)(PAIRS), PairCollator(2, pad_to_multiple_of=4)(PAIRS)
    assert {tuple(tensor.shape) for tensor in wide.values()} == {(4, 8)}
    assert all(torch.equal(wide[name][:, :5], batch[name]) for name in batch)
    assert not wide["attention_mask"][:, 5:].any() and (wide["labels"][:, 5:] == IGNORED).all()
    assert PairCollator(2, pad_to_multiple_of=5)(PAIRS)["input_ids"].shape == (4, 5)


def test_padding_that_is_also_eos_leaves_the_response_s_own_eos_labelled():
    batch = PairCollator(1)(PAIRS)
    assert (batch["labels"] == 1).sum() == 4
    assert batch["attention_mask"].sum().item() == 3 + 5 + 5 + 4


@pytest.mark.parametrize("name", FAMILIES)
def test_labels_are_exactly_the_rendered_response(name):
    family = FAMILIES[name]
    tokenizer = make_tokenizer(family)
    turns = [{"role": "user", "content": "p"}]
    encoded = encode_pairs(tokenizer, [PreferencePair(turns, "yes", "rather not")], extra_eos=family.extra_eos)
    labels = PairCollator(0)(encoded.pairs)["labels"]
    end = family.extra_eos[0] if family.extra_eos else family.eos
    for row, text in zip(labels, ("yes", "rather not"), strict=True):
        assert tokenizer.decode(row[row != IGNORED]) == text + end


def test_statements_are_labelled_whole():
    batch = StatementCollator(9)([{"input_ids": [0, 5, 1]}, {"input_ids": [0, 1]}])
    assert batch["input_ids"].tolist() == [[0, 5, 1], [0, 1, 9]]
    assert batch["labels"].tolist() == [[0, 5, 1], [0, 1, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
