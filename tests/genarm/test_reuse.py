"""Repeated calls on one model share a decoder: built once, right whenever something changed, and holding nothing."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from weakref import WeakSet, ref

import pytest
import torch
from families import make_model, random_prompts, save_adapter, with_adapter
from peft import PeftModel
from torch import Tensor

import genarm
from genarm import GuidedDecoder, reuse
from genarm.models import loading
from genarm.reuse import MOST_DECODERS, shared_decoder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
PROMPTS = random_prompts([6, 3], seed=1)
IDS = torch.stack(random_prompts([5, 5], seed=2))
OPTIONS: dict[str, Any] = {"max_new_tokens": 5, "seed": 3, "eos_token_id": []}


class Counts:
    """How many decoders were made, and how many adapters read."""

    decoders = 0
    adapters = 0
    seconds = 0.0  # that making one takes at least


@pytest.fixture(autouse=True)
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    reuse._KEPT.clear()
    found = Counts()
    init, read = GuidedDecoder.__init__, loading.read_adapter

    def counted_init(self: GuidedDecoder, *args: Any, **kwargs: Any) -> None:
        found.decoders += 1
        time.sleep(found.seconds)
        init(self, *args, **kwargs)

    def counted_read(folder: Path) -> Any:
        found.adapters += 1
        return read(folder)

    monkeypatch.setattr(GuidedDecoder, "__init__", counted_init)
    monkeypatch.setattr(loading, "read_adapter", counted_read)
    yield found
    reuse._KEPT.clear()


@pytest.fixture
def base() -> Any:
    return make_model("llama", seed=1)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(make_model("llama", seed=1), "llama", tmp_path_factory.mktemp("adapters") / "a", seed=4)


def drop_in(model: Any, rewards: Any, **options: Any) -> Tensor:
    call = {"max_new_tokens": 5, "do_sample": True, "top_k": 0, "seed": 3, "eos_token_id": [], **options}
    found: Tensor = model.generate(
        IDS, custom_generate=genarm.custom_generate, reward_models=rewards, pad_token_id=0, **call
    )
    return found


def fresh(model: Any, rewards: Any, **options: Any) -> Tensor:
    return GuidedDecoder(model, rewards).generate(PROMPTS, **OPTIONS | options).sequences


def test_calls_with_the_same_models_build_once(base: Any, adapter: Path, counts: Counts) -> None:
    rewards = {"a": adapter, "b": make_model("llama", seed=2, hidden=16)}
    found = [
        genarm.generate(base, PROMPTS, dict(rewards), {"a": weight, "b": 1.0}, beta=beta, **OPTIONS).sequences
        for weight, beta in ((1.0, 1.0), (-0.5, 1.0), (1.0, 0.3))
    ]
    drop_in(base, rewards)
    drop_in(base, rewards, reward_weights={"a": 0.2, "b": 0.1})
    assert (counts.decoders, counts.adapters) == (1, 1)
    for sequences, (weight, beta) in zip(found, ((1.0, 1.0), (-0.5, 1.0), (1.0, 0.3)), strict=True):
        assert torch.equal(sequences, fresh(base, rewards, weights={"a": weight, "b": 1.0}, beta=beta))


def test_other_models_names_and_sizes_are_other_decoders(base: Any, adapter: Path, counts: Counts) -> None:
    small, other = make_model("llama", seed=2, hidden=16), make_model("llama", seed=3, hidden=16)
    sets: list[Any] = [
        {"a": adapter},
        {"b": adapter},
        [adapter],
        {"a": small},
        {"a": other},
        {"a": adapter, "b": small},
    ]
    for number, rewards in enumerate([*sets, {"b": small, "a": adapter}], start=1):
        found = genarm.generate(base, PROMPTS, rewards, **OPTIONS).sequences
        assert counts.decoders == 2 * number - 1
        assert torch.equal(found, fresh(base, rewards))
    before = counts.decoders
    genarm.generate(base, PROMPTS, {"b": small, "a": adapter}, max_batch_size=2, **OPTIONS)
    genarm.generate(base, PROMPTS, {"b": small, "a": adapter}, max_length=20, **OPTIONS)
    genarm.generate(make_model("llama", seed=1), PROMPTS, {"b": small, "a": adapter}, **OPTIONS)
    assert counts.decoders == before + 3


def test_the_least_recently_used_goes_first(base: Any, counts: Counts) -> None:
    rewards = [{"r": make_model("llama", seed=seed, hidden=16)} for seed in range(MOST_DECODERS + 1)]
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
    first = genarm.generate(base, PROMPTS, {"a": folder}, **OPTIONS).sequences
    time.sleep(0.02)
    save_adapter(base, "llama", folder, seed=5)
    second = genarm.generate(base, PROMPTS, {"a": str(folder)}, **OPTIONS).sequences
    assert counts.adapters == 2 and not torch.equal(first, second)
    assert torch.equal(second, fresh(base, {"a": folder}))
    file = folder / "adapter_config.json"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    read = counts.adapters
    genarm.generate(base, PROMPTS, {"a": folder}, **OPTIONS)
    genarm.generate(base, PROMPTS, {"a": folder}, **OPTIONS)
    assert counts.adapters == read + 1


def test_a_folder_of_the_same_name_elsewhere_is_another(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for seed in (4, 5):
        save_adapter(base, "llama", tmp_path / str(seed) / "a", seed=seed)
        monkeypatch.chdir(tmp_path / str(seed))
        found.append(genarm.generate(base, PROMPTS, {"a": "a"}, **OPTIONS).sequences)
        assert torch.equal(found[-1], fresh(base, {"a": tmp_path / str(seed) / "a"}))
    assert not torch.equal(*found)


def test_a_failure_is_not_kept(base: Any, tmp_path: Path, counts: Counts) -> None:
    for _ in range(2):
        with pytest.raises(genarm.GenARMError):
            genarm.generate(base, PROMPTS, {"a": tmp_path / "missing"}, **OPTIONS)
    folder = save_adapter(base, "llama", tmp_path / "missing", seed=4)
    assert torch.equal(genarm.generate(base, PROMPTS, {"a": folder}, **OPTIONS).sequences, fresh(base, {"a": folder}))
    assert counts.decoders == 4


@pytest.mark.parametrize(
    ("family", "wrapped"), [("llama", "no"), ("gpt2", "no"), ("llama", "peft"), ("llama", "compiled")]
)
def test_nothing_keeps_the_base_alive(family: str, wrapped: str, tmp_path: Path) -> None:
    """Nor its weights, though a reward model that was used with it lives on."""
    folder = save_adapter(make_model(family, seed=1), family, tmp_path / "a", seed=4)
    reward = make_model("llama", seed=2, hidden=16)
    model: Any = make_model(family, seed=1)
    inner = model
    if wrapped == "peft":
        model = with_adapter(inner, folder)
        inner = model.get_base_model()
    elif wrapped == "compiled":
        model = torch.compile(inner, backend="eager")
    genarm.generate(model, PROMPTS, {"a": folder, "r": reward}, **OPTIONS)
    if wrapped == "no":
        drop_in(model, {"a": folder, "r": reward})
    held = [
        ref(model),
        ref(inner),
        *map(ref, inner.parameters()),
        ref(shared_decoder(model, {"a": folder, "r": reward})),
    ]
    del model, inner
    gc.collect()
    assert [one() for one in held] == [None] * len(held)
    assert not reuse._KEPT
    assert genarm.generate(reward, PROMPTS, **OPTIONS).sequences.shape == (2, 11)


def test_nothing_keeps_a_reward_model_alive_and_its_decoder_goes_with_it(base: Any, adapter: Path) -> None:
    rewards: Any = {
        "r": make_model("llama", seed=2, hidden=16),
        "p": with_adapter(make_model("llama", seed=3), adapter),
    }
    for _ in range(2):
        genarm.generate(base, PROMPTS, rewards, **OPTIONS)
        drop_in(base, rewards)
    decoder = ref(shared_decoder(base, rewards))
    held = [ref(reward) for reward in rewards.values()]
    assert len(reuse._KEPT[base]) == 1
    del rewards["r"]
    gc.collect()
    assert held[0]() is None and decoder() is None and not reuse._KEPT[base]
    assert held[1]() is not None
    rewards.clear()
    gc.collect()
    assert held[1]() is None


def test_a_new_model_at_an_old_address_is_a_new_model(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids come back once models have gone; here they always do."""
    monkeypatch.setattr(reuse, "id", lambda _: 7, raising=False)
    for seed in range(3):
        reward = make_model("llama", seed=seed, hidden=16)
        found = genarm.generate(base, PROMPTS, {"r": reward}, **OPTIONS).sequences
        assert torch.equal(found, fresh(base, {"r": reward}))
        del reward
        gc.collect()


def test_endings_do_not_pile_up(base: Any) -> None:
    """An entry that is pushed out takes what waited for its reward model's end."""
    from weakref import finalize

    reward = make_model("llama", seed=2, hidden=16)
    before = len(finalize._registry)  # type: ignore[attr-defined]
    for size in range(1, 4 * MOST_DECODERS):
        shared_decoder(base, {"r": reward}, max_length=100 + size)
    assert len(finalize._registry) <= before + MOST_DECODERS  # type: ignore[attr-defined]


def test_a_peft_model_serves_as_base(adapter: Path, tmp_path: Path, counts: Counts) -> None:
    model: Any = PeftModel.from_pretrained(make_model("llama", seed=1), str(adapter)).eval()
    other = save_adapter(make_model("llama", seed=1), "llama", tmp_path / "b", seed=6)
    found = [genarm.generate(model, PROMPTS, {"b": other}, **OPTIONS).sequences for _ in range(3)]
    assert counts.decoders == 1
    for sequences in found:
        assert torch.equal(sequences, fresh(model, {"b": other}))
    with torch.no_grad():
        next(parameter for name, parameter in model.named_parameters() if "lora_B" in name).add_(0.5)
    changed = genarm.generate(model, PROMPTS, {"b": other}, **OPTIONS).sequences
    assert torch.equal(changed, fresh(model, {"b": other})) and not torch.equal(changed, found[0])


def test_a_base_that_was_trained_or_cast_is_seen(base: Any, adapter: Path) -> None:
    for change in (
        lambda: base.lm_head.weight.data.mul_(-1),
        lambda: base.load_state_dict(make_model("llama", seed=9).state_dict()),
        lambda: base.load_state_dict(make_model("llama", seed=8).state_dict(), assign=True),
        lambda: base.to(torch.bfloat16),
        lambda: base.float(),
    ):
        genarm.generate(base, PROMPTS, {"a": adapter}, **OPTIONS)
        change()
        found = genarm.generate(base, PROMPTS, {"a": adapter}, **OPTIONS).sequences
        assert torch.equal(found, fresh(base, {"a": adapter}))


def test_copies_and_pickles_of_the_model_are_models_of_their_own(base: Any, adapter: Path, counts: Counts) -> None:
    found = genarm.generate(base, PROMPTS, {"a": adapter}, **OPTIONS).sequences
    copies = [copy.deepcopy(base), pickle.loads(pickle.dumps(base))]
    with torch.no_grad():
        base.lm_head.weight.mul_(-1)
    for number, own in enumerate(copies, start=2):
        assert torch.equal(genarm.generate(own, PROMPTS, {"a": adapter}, **OPTIONS).sequences, found)
        assert counts.decoders == number
    assert not torch.equal(genarm.generate(base, PROMPTS, {"a": adapter}, **OPTIONS).sequences, found)


def test_threads_build_one_decoder(base: Any, adapter: Path, counts: Counts) -> None:
    expected = fresh(base, {"a": adapter})
    counts.decoders, counts.adapters, counts.seconds = 0, 0, 0.1
    found: list[Tensor] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            found.append(genarm.generate(base, PROMPTS, {"a": adapter}, **OPTIONS).sequences)
        except BaseException as error:
            errors.append(error)

    threads = [Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and (counts.decoders, counts.adapters) == (1, 1)
    assert len(found) == 6 and all(torch.equal(one, expected) for one in found)


def test_what_is_no_model_is_said_as_ever(adapter: Path) -> None:
    with pytest.raises(genarm.InvalidArgumentError, match="base_model is a str"):
        genarm.generate("gpt2", PROMPTS, {"a": adapter})  # type: ignore[arg-type]
    with pytest.raises(genarm.UnsupportedModelError, match="has no weights"):
        genarm.generate(torch.nn.Identity(), PROMPTS)
