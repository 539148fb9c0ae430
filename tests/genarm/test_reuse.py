"""Repeated calls on one model share a decoder: built once, right whenever something changed, and holding nothing."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import time
from pathlib import Path
from threading import Thread
from typing import Any
from weakref import WeakSet, getweakrefcount, ref

import pytest
import torch
from families import left_padded, make_model, random_prompts, save_adapter, with_adapter
from peft import PeftModel
from torch import Tensor

import genarm
from genarm import GuidedDecoder, InvalidArgumentError, reuse
from genarm.reuse import MOST_DECODERS, shared_decoder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
PROMPTS = random_prompts([6, 3], seed=1)
OPTIONS: dict[str, Any] = {"max_new_tokens": 5, "seed": 3, "eos_token_id": []}


class Counts:
    decoders = 0
    seconds = 0.0


@pytest.fixture(autouse=True)
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """How many decoders were made, and how many seconds making one takes at least."""
    found, init = Counts(), GuidedDecoder.__init__

    def counted(self: GuidedDecoder, *args: Any, **kwargs: Any) -> None:
        found.decoders += 1
        time.sleep(found.seconds)
        init(self, *args, **kwargs)

    monkeypatch.setattr(GuidedDecoder, "__init__", counted)
    return found


@pytest.fixture
def base() -> Any:
    return make_model("llama", seed=1)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(make_model("llama", seed=1), "llama", tmp_path_factory.mktemp("adapters") / "a", seed=4)


def small(seed: int = 2) -> Any:
    return make_model("llama", seed=seed, hidden=16)


def called(model: Any, rewards: Any = None, **options: Any) -> Tensor:
    return genarm.generate(model, PROMPTS, rewards, **OPTIONS | options).sequences


def drop_in(model: Any, rewards: Any, **options: Any) -> Tensor:
    ids, mask = left_padded(PROMPTS)
    call = {"max_new_tokens": 5, "do_sample": True, "top_k": 0, "seed": 3, "pad_token_id": 0, **options}
    model.generation_config.eos_token_id = None
    found: Tensor = model.generate(
        ids, attention_mask=mask, custom_generate=genarm.custom_generate, reward_models=rewards, **call
    )
    return found


def fresh(model: Any, rewards: Any, **options: Any) -> Tensor:
    return GuidedDecoder(model, rewards).generate(PROMPTS, **OPTIONS | options).sequences


def test_calls_with_the_same_models_build_once(base: Any, adapter: Path, counts: Counts) -> None:
    rewards = {"a": adapter, "b": small()}
    settings = [({"a": weight, "b": 1.0}, beta) for weight, beta in ((1.0, 1.0), (-0.5, 1.0), (1.0, 0.3))]
    found = [called(base, dict(rewards), weights=weights, beta=beta) for weights, beta in settings]
    assert torch.equal(drop_in(base, rewards), found[0])
    assert torch.equal(drop_in(base, rewards, reward_weights=settings[1][0]), found[1])
    assert counts.decoders == 1
    for sequences, (weights, beta) in zip(found, settings, strict=True):
        assert torch.equal(sequences, fresh(base, rewards, weights=weights, beta=beta))


def test_other_models_names_and_sizes_are_other_decoders(base: Any, adapter: Path, counts: Counts) -> None:
    one, other = small(), small(3)
    sets: list[Any] = [{"a": adapter}, {"b": adapter}, [adapter], {"a": one}, {"a": other}, {"a": adapter, "b": one}]
    for number, rewards in enumerate([*sets, {"b": one, "a": adapter}], start=1):
        found = called(base, rewards)
        assert counts.decoders == 2 * number - 1
        assert torch.equal(found, fresh(base, rewards))
    before = counts.decoders
    called(base, {"b": one, "a": adapter}, max_batch_size=2)
    called(base, {"b": one, "a": adapter}, max_length=20)
    called(make_model("llama", seed=1), {"b": one, "a": adapter})
    assert counts.decoders == before + 3


def test_the_least_recently_used_goes_first(base: Any, counts: Counts) -> None:
    rewards = [{"r": small(seed)} for seed in range(MOST_DECODERS + 1)]
    kept: WeakSet[GuidedDecoder] = WeakSet()
    for one in rewards[:-1]:
        kept.add(shared_decoder(base, one))
    shared_decoder(base, rewards[0])
    assert counts.decoders == len(kept) == MOST_DECODERS
    kept.add(shared_decoder(base, rewards[-1]))
    gc.collect()
    assert len(kept) == MOST_DECODERS
    for index in (0, 2, 3, 4):
        shared_decoder(base, rewards[index])
    assert counts.decoders == MOST_DECODERS + 1
    shared_decoder(base, rewards[1])
    assert counts.decoders == MOST_DECODERS + 2


def test_an_adapter_that_was_written_anew_is_read_anew(base: Any, tmp_path: Path, counts: Counts) -> None:
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4)
    first = called(base, {"a": folder})
    time.sleep(0.02)
    save_adapter(base, "llama", folder, seed=5)
    second = called(base, {"a": str(folder)})
    assert counts.decoders == 2 and not torch.equal(first, second)
    assert torch.equal(second, fresh(base, {"a": folder}))
    file = folder / "adapter_config.json"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    before = counts.decoders
    called(base, {"a": folder})
    called(base, {"a": folder})
    assert counts.decoders == before + 1


def test_a_folder_of_the_same_name_elsewhere_is_another(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (4, 5):
        folder = save_adapter(base, "llama", tmp_path / str(seed) / "a", seed=seed)
        monkeypatch.chdir(folder.parent)
        assert torch.equal(called(base, {"a": "a"}), fresh(base, {"a": folder}))


def test_a_failure_is_not_kept(base: Any, tmp_path: Path, counts: Counts) -> None:
    for _ in range(2):
        with pytest.raises(genarm.GenARMError):
            called(base, {"a": tmp_path / "missing"})
    folder = save_adapter(base, "llama", tmp_path / "missing", seed=4)
    assert torch.equal(called(base, {"a": folder}), fresh(base, {"a": folder}))
    assert counts.decoders == 4


@pytest.mark.parametrize(
    ("family", "wrapped"), [("llama", "no"), ("gpt2", "no"), ("llama", "peft"), ("llama", "compiled")]
)
def test_nothing_keeps_the_base_alive(family: str, wrapped: str, tmp_path: Path) -> None:
    """Nor its weights, though a reward model that was used with it lives on."""
    folder = save_adapter(make_model(family, seed=1), family, tmp_path / "a", seed=4)
    model: Any = make_model(family, seed=1)
    inner, rewards = model, {"a": folder, "r": small()}
    if wrapped == "peft":
        model = with_adapter(inner, folder)
        inner = model.get_base_model()
    elif wrapped == "compiled":
        model = torch.compile(inner, backend="eager")
    called(model, rewards)
    if wrapped == "no":
        drop_in(model, rewards)
    held = [ref(model), ref(inner), *map(ref, inner.parameters()), ref(shared_decoder(model, rewards))]
    del model, inner
    gc.collect()
    assert [one() for one in held] == [None] * len(held)
    assert called(rewards["r"]).shape == (2, 11)


def test_nothing_keeps_a_reward_model_alive_and_its_decoder_goes_with_it(
    base: Any, adapter: Path, counts: Counts
) -> None:
    rewards: Any = {"r": small(), "p": with_adapter(make_model("llama", seed=3), adapter)}
    for _ in range(2):
        called(base, rewards)
        drop_in(base, rewards)
    decoder = ref(shared_decoder(base, rewards))
    held = [ref(reward) for reward in rewards.values()]
    assert counts.decoders == 1
    del rewards["r"]
    gc.collect()
    assert held[0]() is None and decoder() is None
    assert held[1]() is not None
    rewards.clear()
    gc.collect()
    assert held[1]() is None


def test_a_new_model_at_an_old_address_is_a_new_model(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids come back once models have gone; here they always do."""
    monkeypatch.setattr(reuse, "id", lambda _: 7, raising=False)
    for seed in range(3):
        reward = small(seed)
        assert torch.equal(called(base, {"r": reward}), fresh(base, {"r": reward}))
        del reward
        gc.collect()


def test_endings_do_not_pile_up(base: Any) -> None:
    """An entry that is pushed out takes what waited for its reward model's end."""
    reward = small()
    for size in range(1, 4 * MOST_DECODERS):
        shared_decoder(base, {"r": reward}, max_length=100 + size)
        if size == 1:
            before = getweakrefcount(reward)
    gc.collect()
    assert getweakrefcount(reward) < before + MOST_DECODERS


def test_a_peft_model_serves_as_base(adapter: Path, tmp_path: Path, counts: Counts) -> None:
    model: Any = PeftModel.from_pretrained(make_model("llama", seed=1), str(adapter)).eval()
    other = save_adapter(make_model("llama", seed=1), "llama", tmp_path / "b", seed=6)
    found = [called(model, {"b": other}) for _ in range(2)]
    assert counts.decoders == 1
    for sequences in found:
        assert torch.equal(sequences, fresh(model, {"b": other}))
    with torch.no_grad():
        next(parameter for name, parameter in model.named_parameters() if "lora_B" in name).add_(0.5)
    changed = called(model, {"b": other})
    assert torch.equal(changed, fresh(model, {"b": other})) and not torch.equal(changed, found[0])


def test_a_base_that_was_trained_or_cast_is_seen(base: Any, adapter: Path) -> None:
    """To the last bit of the log-probabilities: an adapter that was read for bfloat16 is read anew for float32."""
    coarse = make_model("llama", seed=7).to(torch.bfloat16)
    call: dict[str, Any] = {"return_logprobs": True, **OPTIONS}
    for model, change in (
        (base, lambda: base.lm_head.weight.data.mul_(-1)),
        (base, lambda: base.load_state_dict(make_model("llama", seed=9).state_dict())),
        (base, lambda: base.load_state_dict(make_model("llama", seed=8).state_dict(), assign=True)),
        (base, lambda: base.to(torch.bfloat16)),
        (coarse, lambda: coarse.float()),
    ):
        genarm.generate(model, PROMPTS, {"a": adapter}, **call)
        change()
        found = genarm.generate(model, PROMPTS, {"a": adapter}, **call)
        expected = GuidedDecoder(model, {"a": adapter}).generate(PROMPTS, **call)
        assert torch.equal(found.sequences, expected.sequences)
        assert found.model_logprobs is not None and expected.model_logprobs is not None
        assert torch.equal(found.model_logprobs, expected.model_logprobs)
    base.float()
    assert torch.equal(called(base, {"a": adapter}), fresh(base, {"a": adapter}))


def test_copies_and_pickles_of_the_model_are_models_of_their_own(base: Any, adapter: Path, counts: Counts) -> None:
    found = called(base, {"a": adapter})
    copies = [copy.deepcopy(base), pickle.loads(pickle.dumps(base))]
    with torch.no_grad():
        base.lm_head.weight.mul_(-1)
    for number, own in enumerate(copies, start=2):
        assert torch.equal(called(own, {"a": adapter}), found)
        assert counts.decoders == number
    assert not torch.equal(called(base, {"a": adapter}), found)


def test_threads_build_one_decoder(base: Any, adapter: Path, counts: Counts) -> None:
    expected = fresh(base, {"a": adapter})
    counts.decoders, counts.seconds = 0, 0.1
    found: list[Tensor] = []
    threads = [Thread(target=lambda: found.append(called(base, {"a": adapter}))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.decoders == 1
    assert len(found) == 6 and all(torch.equal(one, expected) for one in found)


def test_the_function_equals_the_class_and_names_what_is_wrong_as_it_does(base: Any, adapter: Path) -> None:
    ids, mask = left_padded(PROMPTS)
    found = genarm.generate(base, ids, [adapter], [0.7], attention_mask=mask, **OPTIONS)
    assert torch.equal(found.sequences, fresh(base, [adapter], weights=[0.7]))
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (PROMPTS, {"max_batch_size": 0}, "max_batch_size is 0"),
        (PROMPTS, {"max_length": 1.5}, "max_length is 1.5"),
        (5, {}, "input_ids is a int"),
    ]
    for prompts, options, cause in wrong:
        with pytest.raises(InvalidArgumentError, match=cause):
            genarm.generate(base, prompts, **options)
    with pytest.raises(InvalidArgumentError, match="base_model is a str"):
        genarm.generate("gpt2", PROMPTS, {"a": adapter})  # type: ignore[arg-type]
    with pytest.raises(genarm.UnsupportedModelError, match="has no weights"):
        genarm.generate(torch.nn.Identity(), PROMPTS)
