"""A session whose adapter sleeps on prompts, after any of its verbs: the prompt's beginning was read without the
adapter and everything since with it, as PEFT's own activated LoRA reads a whole text whose awake tokens it is told."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from activated_cases import LiteralLoop, activated
from families import VOCAB, make_model, random_prompts
from peft import PeftModel
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM, Phi3Config, Phi3ForCausalLM

from genarm import UnsupportedAdapterError
from genarm.models.activation import AwakePlaces
from genarm.models.adapters import read_adapter
from genarm.models.causal import make_model as stream_model
from genarm.models.hf import session as hf
from genarm.models.hf.session import HFBackbone

LENGTHS = [5, 13, 1, 8]
TOKENS_OF = (7, 9)  # what wakes an adapter in the prompts below, with one to three tokens behind


def opt() -> Any:
    """Its MLP reads the tokens of a batch one behind the other."""
    torch.manual_seed(1)
    shape = {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
    }
    return OPTForCausalLM(OPTConfig(vocab_size=VOCAB, max_position_embeddings=64, do_layer_norm_before=True, **shape))


def longrope() -> Any:
    """Its frequencies change at 16 tokens, where texts are read anew."""
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0, 3.0, 9.0, 16.0], "factor": 4.0}
    positions = {"original_max_position_embeddings": 16, "max_position_embeddings": 64}
    ids = {"vocab_size": VOCAB, "eos_token_id": None, "pad_token_id": 0, "bos_token_id": 1}
    return Phi3ForCausalLM(Phi3Config(**ids, **shape, **positions, rope_parameters={**rope, "rope_theta": 1e4}))


MADE = {
    "opt": (opt, "hf", ["q_proj", "fc1", "fc2"]),
    "longrope": (longrope, "hf-padded", ["qkv_proj", "down_proj"]),
    "llama": (lambda: make_model("llama", seed=1), "hf", None),
    "head": (lambda: make_model("llama", seed=1), "hf", ["v_proj", "lm_head"]),
    "gpt2": (lambda: make_model("gpt2", seed=1), "hf", None),
    "gemma2": (lambda: make_model("gemma2", seed=1), "hf", None),
    "padded": (lambda: make_model("llama", seed=1), "hf-padded", None),
}


class Rows:
    """A session of one activated adapter, and what each of its rows holds: its text, and from where on it is awake."""

    def __init__(self, name: str, folder: Path, tokens: tuple[int, ...]) -> None:
        make, self.kind, targets = MADE[name]
        base = make().eval()
        family = "gpt2" if name == "gpt2" else "llama"
        settings = {} if targets is None else {"target_modules": targets}
        activated(base, family, folder, 4, tokens, **settings)
        self.peft = PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()
        self.loop = LiteralLoop(base, folder) if name == "opt" else None  # which PEFT's own does not run
        self.backbone = HFBackbone(stream_model("m", base, read_adapter(folder).fit(base)), 0)
        if name == "padded":
            self.backbone.static = False
        self.texts: list[Tensor] = []
        self.starts: list[int] = []

    def prefill(self, prompts: list[Tensor], starts: list[int]) -> None:
        self.session = self.backbone.session(len(prompts), 40)
        self.texts, self.starts = list(prompts), list(starts)
        (found,) = self.session.prefill([prompts])
        self.assert_equal(found[:, None])
        assert self.backbone.kind == self.kind

    def append(self, tokens: Tensor) -> None:
        self.texts = [torch.cat([text, new]) for text, new in zip(self.texts, tokens, strict=True)]
        self.assert_equal(self.session.append(tokens)[0])

    def truncate(self, lengths: list[int]) -> None:
        self.session.truncate(lengths)
        self.texts = [text[:length] for text, length in zip(self.texts, lengths, strict=True)]
        self.starts = [min(start, length) for start, length in zip(self.starts, lengths, strict=True)]

    def copy(self, sources: list[int], targets: list[int]) -> None:
        self.session.copy(sources, targets)
        texts, starts = list(self.texts), list(self.starts)
        for source, target in zip(sources, targets, strict=True):
            self.texts[target], self.starts[target] = texts[source], starts[source]

    def assert_equal(self, found: Tensor) -> None:
        for own, text, start in zip(found, self.texts, self.starts, strict=True):
            torch.testing.assert_close(own, self.expected(text, start)[-len(own) :], atol=1e-4, rtol=0)

    @torch.no_grad()
    def expected(self, text: Tensor, start: int) -> Tensor:
        if self.loop is not None:
            return self.loop.logits(text, start)
        fresh = copy.deepcopy(self.peft)  # whose frequencies no text has changed
        logits: Tensor = fresh(input_ids=text[None], alora_offsets=[len(text) - start]).logits[0]
        return logits


def tokens_of(Q: int, seed: int) -> Tensor:
    return torch.stack(random_prompts([Q] * len(LENGTHS), seed=seed))


def prompts_of(tokens: tuple[int, ...]) -> tuple[list[Tensor], list[int]]:
    """Ragged prompts, and from where on an adapter is awake on them."""
    prompts = [prompt.where(prompt > 9, 11) for prompt in random_prompts(LENGTHS, seed=1)]
    if not tokens:
        return prompts, [length - 1 for length in LENGTHS]
    behind = [torch.tensor([*tokens, *[20] * row]) for row in range(len(prompts))]
    return [torch.cat(pair) for pair in zip(prompts, behind, strict=True)], list(LENGTHS)


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments")
@pytest.mark.parametrize("tokens", [(), TOKENS_OF], ids=["last token", "tokens"])
@pytest.mark.parametrize("name", MADE)
def test_a_session_s_verbs(name: str, tokens: tuple[int, ...], tmp_path: Path) -> None:
    rows = Rows(name, tmp_path / "a", tokens)
    rows.prefill(*prompts_of(tokens))
    rows.append(tokens_of(3, seed=2))
    kept = [len(rows.texts[0]) - 2, len(rows.texts[1]), len(rows.texts[2]) - 1, 4]  # the last one loses of its prompt
    rows.truncate(kept)
    rows.append(tokens_of(2, seed=3))
    rows.copy([1, 0, 3], [0, 1, 2])
    rows.append(tokens_of(1, seed=4))
    rows.prefill(*prompts_of(tokens))


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments")
def test_prompts_in_parts_and_in_the_places_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "CHUNK", 4)
    rows = Rows("llama", tmp_path / "a", TOKENS_OF)
    prompts, starts = prompts_of(TOKENS_OF)
    rows.prefill([*prompts[:3], prompts[1]], [*starts[:3], starts[1]])
    rows.append(tokens_of(2, seed=2))
    (found,) = rows.session.prefill([[prompts[3]]], [1])
    rows.texts[1], rows.starts[1] = prompts[3], starts[3]
    torch.testing.assert_close(found, rows.expected(prompts[3], starts[3])[-1:], atol=1e-4, rtol=0)
    rows.append(tokens_of(2, seed=3))


def test_a_layer_that_does_not_say_which_tokens_it_reads_is_refused() -> None:
    places = AwakePlaces(torch.tensor([[False, True, True], [False, False, True]]))
    added = torch.ones(2, 3, 4)
    assert places.on(added)[..., 0].tolist() == [[0, 1, 1], [0, 0, 1]]
    assert torch.equal(places.on(added.flatten(0, 1)), places.on(added).flatten(0, 1))
    assert places.on(added * torch.nan)[0, 0].tolist() == [0.0] * 4
    with pytest.raises(UnsupportedAdapterError, match="which are the prompt's"):
        places.on(torch.ones(4, 4))


def test_an_ordinary_adapter_is_awake_everywhere() -> None:
    assert torch.equal(AwakePlaces().on(torch.ones(5, 4)), torch.ones(5, 4))
