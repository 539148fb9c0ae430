"""A batch holds the chosen sequences, then the rejected ones; labels are responses and nothing else."""

import torch

from genarm.preferences.collate import IGNORED, PairCollator, StatementCollator
from genarm.preferences.encoding import EncodedPair

PAIRS = [
    EncodedPair(prompt_ids=[0], chosen_ids=[5, 1], rejected_ids=[6, 6, 6, 1]),
    EncodedPair(prompt_ids=[0, 7, 8], chosen_ids=[9, 1], rejected_ids=[1]),
]


def test_rows_are_chosen_then_rejected_padded_to_the_longest():
    batch, n = PairCollator(2)(PAIRS), IGNORED
    assert batch["input_ids"].tolist() == [[0, 5, 1, 2, 2], [0, 7, 8, 9, 1], [0, 6, 6, 6, 1], [0, 7, 8, 1, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5, [1] * 5, [1, 1, 1, 1, 0]]
    assert batch["labels"].tolist() == [[n, 5, 1, n, n], [n, n, n, 9, 1], [n, 6, 6, 6, 1], [n, n, n, 1, n]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    eos = PairCollator(1)(PAIRS)  # padding that is also EOS leaves the response's own labelled
    assert (eos["labels"] == 1).sum() == 4 and eos["attention_mask"].sum() == 3 + 5 + 5 + 4


def test_a_width_can_be_rounded_up_in_every_tensor():
    batch, wide = PairCollator(2)(PAIRS), PairCollator(2, pad_to_multiple_of=4)(PAIRS)
    assert {tuple(tensor.shape) for tensor in wide.values()} == {(4, 8)}
    assert all(torch.equal(wide[name][:, :5], batch[name]) for name in batch)
    assert not wide["attention_mask"][:, 5:].any() and (wide["labels"][:, 5:] == IGNORED).all()
    assert PairCollator(2, pad_to_multiple_of=5)(PAIRS)["input_ids"].shape == (4, 5)


def test_statements_are_labelled_whole():
    batch = StatementCollator(9)([{"input_ids": [0, 5, 1]}, {"input_ids": [0, 1]}])
    assert batch["input_ids"].tolist() == [[0, 5, 1], [0, 1, 9]]
    assert batch["labels"].tolist() == [[0, 5, 1], [0, 1, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
