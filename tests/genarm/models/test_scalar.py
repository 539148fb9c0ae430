"""Trajectory RMs from folders and modules, and what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import LLAMA_LINEARS, VOCAB, make_model
from method_cases import make_scorer, score_of
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification

from genarm import GuidedDecoder
from genarm.engine.reader import reading
from genarm.errors import InvalidArgumentError, LoadingError, UnsupportedModelError, VocabularyMismatchError
from genarm.scalars import scalar

TEXT = [5, 9, 11, 30, 4]


def read(decoder: GuidedDecoder, given: Any) -> float:
    judge = scalar(decoder, given, "trajectory_rm")
    with reading(judge.models, judge.backbones, [TEXT], 5) as reader:
        return float(reader.prefill([TEXT])[0])


def adapter_on(scorer: Any, folder: Path) -> Any:
    """A LoRA adapter with its score, as `genarm train trajectory-rm` leaves it."""
    torch.manual_seed(8)
    config = LoraConfig(r=4, target_modules=LLAMA_LINEARS, task_type="SEQ_CLS", modules_to_save=["score"])
    wrapped = get_peft_model(scorer, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name or "score" in name:
            nn.init.normal_(parameter, std=0.3)
    wrapped.save_pretrained(str(folder))
    return wrapped.eval()


def test_a_trajectory_rm_is_read_from_a_folder_or_taken_as_it_is(tmp_path: Path) -> None:
    decoder, scorer = GuidedDecoder(make_model("llama")), make_scorer("llama", seed=3)
    scorer.save_pretrained(tmp_path / "whole")
    for given in (scorer, tmp_path / "whole", str(tmp_path / "whole")):
        assert read(decoder, given) == pytest.approx(score_of(scorer, TEXT), abs=1e-4)
    assert scalar(decoder, str(tmp_path / "whole"), "x") is scalar(decoder, tmp_path / "whole", "x")


def test_an_adapter_with_its_score_goes_on_its_base(tmp_path: Path) -> None:
    base = make_model("llama")
    base.save_pretrained(tmp_path / "base")
    scorer = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    wrapped = adapter_on(scorer, tmp_path / "adapter")
    expected = score_of(wrapped.get_base_model(), TEXT)
    decoder = GuidedDecoder.from_pretrained(tmp_path / "base")
    assert read(decoder, tmp_path / "adapter") == pytest.approx(expected, abs=1e-4)
    assert read(decoder, wrapped) == pytest.approx(expected, abs=1e-4)
    assert score_of(wrapped.get_base_model(), TEXT) == expected  # the caller's own is not merged


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("", InvalidArgumentError, "pass the path of a trajectory RM"),
        (7, InvalidArgumentError, "trajectory_rm is 7"),
        ("/nowhere", LoadingError, "no such folder"),
        ("causal", UnsupportedModelError, "has no score"),
        ("labels", UnsupportedModelError, "has 2 labels"),
        ("vocabulary", VocabularyMismatchError, "trajectory_rm"),
    ],
)
def test_what_is_no_trajectory_rm_is_refused(given: Any, error: type[Exception], words: str) -> None:
    causal = make_model("llama")
    made = {"causal": lambda: causal, "vocabulary": lambda: make_scorer("llama", vocab=VOCAB + 5)}
    if given == "labels":
        given = AutoModelForSequenceClassification.from_config(make_model("llama").config)
        given.score = nn.Linear(32, 2, bias=False)
    given = made[given]() if isinstance(given, str) and given in made else given
    with pytest.raises(error, match=words):
        scalar(GuidedDecoder(make_model("llama")), given, "trajectory_rm")


def test_a_decoder_of_fewer_models_is_the_plain_one_and_reads_no_other(decoder: GuidedDecoder) -> None:
    options: dict[str, Any] = {"max_new_tokens": 5, "seed": 4, "eos_token_id": []}
    plain = GuidedDecoder(decoder.base_model).generate([[5, 6, 7]], **options)
    alone = decoder.only().generate([[5, 6, 7]], **options)
    assert alone.tokens[0].tolist() == plain.tokens[0].tolist()
    assert alone.stats.forwarded == {"base": 3 + 4}
    both = decoder.only("r").generate([[5, 6, 7]] * 2, **options)
    assert both.stats.forwarded == {"base": 3 + 2 * 4, "r": 3 + 2 * 4}
    assert decoder.only("r") is decoder.only("r") and decoder.only("r").reward_names == ("r",)
