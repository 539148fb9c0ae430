"""What the figures of a run say about it: whether it learned anything, and what to change if it did not."""

import re

import pytest

from genarm.training.verdict import remarks, reward_model_guides

INTERVAL = "eval_accuracy_interval"


def record(losses=(0.7, 0.5), held_out=200, warmup=0.1, trained_on=0, **metrics):
    return {
        "settings": {"learning_rate": 5e-4, "epochs": 1.0, "warmup": warmup},
        "metrics": {"steps": 20, "train_accuracy": 0.6, INTERVAL: [0.8, 0.9], **metrics},
        "history": [{"loss": loss} for loss in losses],
        "data": {"train": {"pairs": 600}, "held out": {"pairs": held_out, "trained_on": trained_on}},
    }


def test_a_run_that_went_well_has_no_remarks():
    for good in (record(), record(**{INTERVAL: None}), record(losses=()), record(warmup=20.0, steps=21)):
        assert remarks(good) == [] and reward_model_guides(good)


@pytest.mark.parametrize(
    ("made", "words", "guides"),
    [
        (
            record(**{INTERVAL: [0.42, 0.58]}),
            "no better than chance.*42.0 to 58.0%.*--epochs .they were 1.*0.0005",
            0,
        ),
        (record(**{INTERVAL: [0.42, 0.58]}, train_accuracy=0.97), "97% right, so it knows them by heart: .*fewer", 0),
        (record(**{INTERVAL: [0.42, 0.9]}, train_accuracy=0.97, held_out=12), "Only 12 pairs are held out", 0),
        (record(**{INTERVAL: [0.1, 0.4]}), "the wrong way round: .* lies below 50%", 0),
        (record(unchanged=True), "the same as before training.*raise --learning-rate .it was 0.0005", 0),
        (record(losses=(0.7, 0.6, 2.0, 9.0)), "rose from 0.70 to 9.00.*--learning-rate 1.0e-04 --overwrite", 1),
        (record(warmup=20.0), "warm-up of 20 steps is as long as the run of 20", 1),
        (record(trained_on=3), "3 of the 200 held-out pairs were trained on too", 1),
    ],
)
def test_what_went_wrong_is_said_with_its_cure(made, words, guides):
    (text,) = remarks(made)
    assert re.search(words, text), text
    assert reward_model_guides(made) == bool(guides)
