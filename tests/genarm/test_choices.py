"""The paths a caller chooses: refused where they are not there, with what to do instead."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from typing import Any

import pytest
import torch
from families import make_model, random_prompts

from genarm import GuidedDecoder, InvalidArgumentError


def test_unknown_choices_are_refused_by_name() -> None:
    model = make_model("llama")
    with pytest.raises(InvalidArgumentError, match="engine is 'fast': pass one of 'auto', 'eager', 'hf'"):
        GuidedDecoder(model, engine="fast")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="attention is 'sdpa': pass one of 'kernel', 'flash-attn'"):
        GuidedDecoder(model, attention="sdpa")  # type: ignore[arg-type]


def test_flash_attn_is_refused_where_it_is_not_installed_or_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    own = importlib.util.find_spec
    present: dict[str, Any] = {"flash_attn": None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: present.get(name) or own(name, *rest))
    if own("flash_attn") is None:
        with pytest.raises(InvalidArgumentError, match="not installed"):
            GuidedDecoder(make_model("llama"), attention="flash-attn")
    present["flash_attn"] = ModuleSpec("flash_attn", None)
    with pytest.raises(InvalidArgumentError, match=r"the base is torch.float32 on cpu: leave it at 'kernel'"):
        GuidedDecoder(make_model("llama"), attention="flash-attn")


def test_every_engine_decodes_the_same_tokens_and_says_what_ran() -> None:
    model, prompts = make_model("llama", seed=1), random_prompts([4, 7], seed=1)
    outs = {
        name: GuidedDecoder(model, engine=name).generate(prompts, temperature=0.0) for name in ("auto", "eager", "hf")
    }  # type: ignore[arg-type]
    assert [out.stats.engine for out in outs.values()] == ["fused", "fused", "hf"]
    assert all(torch.equal(out.sequences, outs["auto"].sequences) for out in outs.values())
