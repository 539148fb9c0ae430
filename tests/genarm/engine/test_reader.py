"""Rows that grow unevenly, are copied and taken back say what a plain pass over each text says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model, random_prompts, save_adapter, with_adapter
from fused_cases import build
from method_cases import make_scorer, next_logits, score_of
from woken_cases import mixed

from genarm import GuidedDecoder
from genarm.engine import memory
from genarm.engine.reader import BLOCK, TextReader, reading
from genarm.scalars import scalar


def assert_reads(logits: list[torch.Tensor], models: list[Any], texts: list[list[int]], rows: list[int]) -> None:
    for found, model in zip(logits, models, strict=True):
        for row in rows:
            torch.testing.assert_close(found[row], next_logits(model, texts[row]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("engine", ["auto", "hf"])
def test_rows_are_plain_texts_whatever_was_done_to_them(engine: Any, tmp_path: Any) -> None:
    base = make_model("llama")
    adapter = save_adapter(base, "llama", tmp_path / "one", 1)
    plain = [make_model("llama"), with_adapter(base, adapter)]
    decoder = GuidedDecoder(base, {"one": str(adapter)}, engine=engine)
    texts = [prompt.tolist() for prompt in random_prompts([5, 3, 9])]
    with reading(decoder.models, decoder.engine.backbones, texts, 31) as reader:
        assert_reads(reader.prefill(texts), plain, texts, [0, 1, 2])
        added = [[7, 8], list(range(3, 22)), []]
        texts = [text + new for text, new in zip(texts, added, strict=True)]
        assert_reads(reader.extend(added), plain, texts, [0, 1])
        reader.copy([0, 2], [2, 0])
        texts = [texts[2], texts[1], texts[0]]
        reader.drop([0, 4, 1])
        texts = [texts[0], texts[1][:-4], texts[2][:-1]]
        assert reader.lengths == [len(text) for text in texts]
        added = [[11], [12], [13, 14]]
        texts = [text + new for text, new in zip(texts, added, strict=True)]
        assert_reads(reader.extend(added), plain, texts, [0, 1, 2])
        assert reader.forwarded == dict.fromkeys(("base", "one"), 5 + 3 + 9 + 2 + 19 + 4)
        with pytest.raises(IndexError, match="do not fit"):
            reader.extend([[3] * 30] * 3)


def test_a_prompt_that_rows_share_is_counted_once(decoder: GuidedDecoder) -> None:
    prompts = [[5, 6, 7]] * 2 + [[5, 6, 7, 8]]
    with reading(decoder.models, decoder.engine.backbones, prompts, 16) as reader:
        assert isinstance(reader, TextReader)
        reader.prefill(prompts)
        assert set(reader.forwarded.values()) == {7}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gemma3"])
def test_a_trajectory_rm_reads_with_a_cache_what_it_says_of_whole_texts(family: str) -> None:
    scorer = make_scorer(family, seed=3)
    decoder = GuidedDecoder(make_model(family))
    judge = scalar(decoder, scorer, "trajectory_rm")
    assert judge.backbones[0].kind == ("fused" if family in ("llama", "qwen2") else "hf")
    texts = [prompt.tolist() for prompt in random_prompts([6, 2])]
    with reading(judge.models, judge.backbones, texts, 24) as reader:
        reader.prefill(texts)
        added = [[4, 5, 6], [9]]
        found = reader.extend(added)[0]
    assert found.shape == (2, 1)
    for row, (text, new) in enumerate(zip(texts, added, strict=True)):
        assert float(found[row]) == pytest.approx(score_of(scorer, text + new), abs=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.usefixtures("native_path")
@pytest.mark.parametrize(("activated", "ordinary"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_places_with_one_prompt_hold_it_once(activated: int, ordinary: int, tmp_path: Path) -> None:
    """For what is read and no more: a prompt for each kind of stream, and every place's own tokens."""
    base = build("llama")
    rewards, _ = mixed(base, activated, tmp_path, ordinary)
    decoder, prompt = GuidedDecoder(base, rewards), random_prompts([100])[0].tolist()
    held = 100 * 2 * 2 * 2 * 8 * 4  # layers, keys and values, key heads, their size, bytes
    with reading(decoder.models, decoder.engine.backbones, [prompt] * 6, 10):
        rows, own = 6 * len(decoder.models), 10 + BLOCK + activated
        assert memory.held_bytes() * 100 == ((100 - activated) * (1 + ordinary) + rows * own) * held


@pytest.mark.usefixtures("native_path")
def test_places_with_one_prompt_go_on_apart(tmp_path: Path) -> None:
    """They grow, are taken back, and take what places of another prompt hold."""
    base = make_model("llama")
    adapter = save_adapter(base, "llama", tmp_path / "one", 1)
    plain = [make_model("llama"), with_adapter(base, adapter)]
    decoder = GuidedDecoder(base, {"one": str(adapter)})
    first, second = (prompt.tolist() for prompt in random_prompts([80, 70], seed=2))
    texts = [first, first, second, second]
    with reading(decoder.models, decoder.engine.backbones, texts, 20) as reader:
        assert_reads(reader.prefill(texts), plain, texts, [0, 1, 2, 3])
        added = [[7, 8], list(range(3, 17)), [], [9]]
        texts = [text + new for text, new in zip(texts, added, strict=True)]
        assert_reads(reader.extend(added), plain, texts, [0, 1, 3])
        reader.copy([1, 3], [3, 0])
        texts = [texts[3], texts[1], texts[2], texts[1]]
        reader.drop([1, 10, 5, 14])  # of the third one's prompt too
        texts = [text[: len(text) - count] for text, count in zip(texts, [1, 10, 5, 14], strict=True)]
        added = [[11], [12, 13], [14], [15]]
        texts = [text + new for text, new in zip(texts, added, strict=True)]
        assert_reads(reader.extend(added), plain, texts, [0, 1, 2, 3])
