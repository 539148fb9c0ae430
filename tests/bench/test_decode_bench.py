"""The decoding suite itself: every contender decodes the same thing, bytes are counted right, reports are honest."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import decode_cases, decode_floors, decode_plot, decode_rounds, decode_table, decode_targets, targets
from bench.decode_cases import COMPILED, HAND_MADE, Case, Contender, cpu_cases, gpu_cases, ours
from bench.decode_models import Family, cache_bytes, config, family, random_model, step_bytes, weight_bytes
from bench.decode_peers import Timing
from bench.decode_rounds import PLAIN, build, covered, measured

CPU = torch.device("cpu")
CONTENDERS = (*ours(0, 1, 2), *HAND_MADE, *COMPILED)
CASE = Case("tiny", "lora", 2, 12, CONTENDERS, rounds=2, tokens=6)


@pytest.mark.parametrize("alike", [True, False], ids=["one prompt", "two prompts"])
def test_every_contender_decodes_the_same_tokens(monkeypatch: pytest.MonkeyPatch, alike: bool) -> None:
    monkeypatch.setattr(decode_rounds, "missing", lambda contender, device=None: None)
    models = family("tiny", torch.float32, CPU)
    prompts = torch.randint(3, 512, (1 if alike else 2, 12), generator=torch.Generator().manual_seed(3))
    prompts = prompts.expand(2, -1).contiguous()
    found: dict[int, list[torch.Tensor]] = {}
    for contender, decode in build(models, CASE, backend="eager").items():
        for _ in range(2):  # the second call on what the first one left behind
            timing = decode(prompts, 6, greedy=True)
        assert timing.sequences.shape == (2, 18) and timing.first > 0 and timing.decode > 0
        found.setdefault(contender.K, []).append(timing.sequences)
    assert [len(found[K]) for K in (0, 1, 2)] == [3, 5, 2]
    for sequences in found.values():
        assert all(torch.equal(sequences[0], other) for other in sequences[1:])
    assert not torch.equal(found[0][0], found[1][0])


def test_separate_reward_models_decode_as_adapters_do() -> None:
    models = family("tiny", torch.float32, CPU)
    prompts = torch.arange(3, 15)[None]
    drawn = []
    for rewards in ("lora", "separate"):
        decoders = build(models, replace(CASE, rewards=rewards, batch=1, contenders=ours(2)))
        drawn.append(decoders[ours(2)[0]](prompts, 6, greedy=True).sequences)
    assert torch.equal(*drawn)


def test_timings_lie_within_the_call() -> None:
    decoders = build(family("tiny", torch.float32, CPU), replace(CASE, batch=1))
    prompts = torch.arange(3, 15)[None]
    for contender, decode in decoders.items():
        decode(prompts, 6)
        started = time.perf_counter()
        timing = decode(prompts, 6)
        assert timing.first + timing.decode <= time.perf_counter() - started, contender.name


@pytest.mark.parametrize(
    ("name", "billions"), [("Llama-3.1-8B", 8.03), ("Llama-2-7B", 6.74), ("Llama-3.2-1B", 1.236), ("Qwen3-0.6B", 0.596)]
)
def test_models_have_the_sizes_of_the_real_ones(name: str, billions: float) -> None:
    model = random_model(config(name), torch.bfloat16, torch.device("meta"))
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(billions, rel=3e-3)


def test_the_byte_floor_of_an_8b_model_is_what_it_reads() -> None:
    base = random_model(config("Llama-3.1-8B"), torch.bfloat16, torch.device("meta"))
    assert weight_bytes(base) == pytest.approx(15.0e9, rel=2e-3)  # 16.06 GB, 1.05 GB of it the embedding
    assert cache_bytes(base.config, 2) == 131072


def test_the_byte_floor_adds_up() -> None:
    models = family("tiny", torch.bfloat16, CPU)
    layer = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 128 + 2 * 64
    weights = 2 * (2 * layer + 64 + 512 * 64)
    lora = step_bytes(models, 3, False, 4, 100.5)
    assert lora.weights == weights and lora.logits == 4 * 4 * 512 * 2
    assert lora.cache == 4 * 4 * 100.5 * (2 * 2 * 2 * 16 * 2)
    rank = 2 * 16 * (4 * 64 + 2 * 32 + 2 * 64 + 2 * 64 + 128 + 2 * 128 + 64)
    assert lora.adapters == 3 * 2 * rank
    separate = step_bytes(models, 3, True, 4, 100.5)
    assert separate.weights == 4 * weights and separate.adapters == 0
    assert separate.total == separate.weights + lora.cache + lora.logits


def test_the_part_of_a_step_that_is_covered() -> None:
    intervals = [(4.0, 5.0), (0.0, 2.0), (1.0, 3.0), (1.5, 2.5), (5.0, 6.0)]
    assert covered(intervals) == 5.0 and covered(intervals, since=2.0) == 3.0 and covered([]) == 0.0


def test_one_contender_that_fails_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Timing:
        raise RuntimeError("broken")

    def large(*_: Any) -> Timing:
        raise torch.OutOfMemoryError("large")

    def both(models: Family, case: Case) -> dict[Contender, Any]:
        decoders = build(models, case)
        return decoders | {Contender("loop", 1): broken, Contender("loop", 2): large}

    monkeypatch.setattr(decode_rounds, "build", both)
    found = measured(replace(CASE, rounds=3), torch.float32)
    assert "broken" in found.failed[Contender("loop", 1)] and found.too_large == {Contender("loop", 2)}
    assert len(found.rounds) == 3 and Contender("hf", 0) in found.rounds[0]
    assert found.ratios(PLAIN, PLAIN) == [1.0] * 3 and found.ratios(PLAIN, Contender("loop", 1)) is None
    assert found.host_gap(PLAIN) is None


@pytest.mark.parametrize("cases", [cpu_cases(), gpu_cases()], ids=["CPU", "GPU"])
def test_names_tell_cases_apart(cases: list[Case]) -> None:
    names = [f"{case.name} {contender.name}" for case in cases for contender in case.contenders]
    assert len(names) == len(set(names))


def test_the_full_grid_is_what_was_asked_for() -> None:
    full = [case for case in gpu_cases() if case.full]
    assert len(full) == len(decode_cases.MODELS) * 2 * 4 * 3
    assert all({PLAIN, *ours(1, 2, 3)} <= set(case.contenders) for case in full)


@pytest.mark.parametrize(
    ("cases", "wanted"), [(cpu_cases(), decode_targets.ON_CPU), (gpu_cases(), decode_targets.ON_GPU)]
)
def test_every_target_is_measured_by_default(cases: list[Case], wanted: list[decode_targets.Target]) -> None:
    default = [case for case in cases if not case.full]
    measured = {
        (case.model, case.rewards, case.batch, case.context, case.part, contender.way, contender.K)
        for case in default
        for contender in case.contenders
    }
    assert all((*target.shape, target.contender, target.K) in measured for target in wanted)


def record(cases: list[Case], device: str = "a device", ratio: float = 1.04, peers: float = 12.0) -> dict[str, Any]:
    """A suite's JSON in which guidance costs ``ratio`` for every reward model and peers ``peers`` times ours."""
    rows = []
    for case in cases:
        for contender in case.contenders:
            over = None if contender.way == "ours" else peers
            times = (over or 1.0) * ratio**contender.K
            notes = {"contender": contender.way, "K": contender.K, "model": case.model, "rewards": case.rewards}
            notes |= {"part": case.part, "B": case.batch, "context": case.context, "dtype": "bfloat16"}
            notes |= {"engine": "fused", "steps": 32, "tokens/s": 1.0, "bytes": 1e10, "host_gap": 0.02}
            notes |= {"GB/s": 2500.0, "share_of_copy": 0.6, "copy_GB/s": 4000.0, "first_ms": 50.0}
            for name, value in (("ratio", times), ("over_ours", over)):
                notes |= {name: value, f"{name}_low": value and value * 0.99, f"{name}_high": value and value * 1.01}
            rows.append({"name": case.name, "median_us": 4000.0 * times, "rounds": 9, "notes": notes})
    return {"suite": "decode", "device": device, "versions": {"torch": "2"}, "commit": "c0ffee", "rows": rows}


def test_targets_are_judged_on_what_was_measured() -> None:
    default = [case for case in gpu_cases() if not case.full]
    assert targets.has_digest(record(default))
    text = "\n".join(targets.digest(record(default)))
    assert "NOT MEASURED" not in text and text.count("NOT MET") == 2, text
    verdicts = {
        line.split("  target")[0].split("   ")[0].strip(): line for line in text.splitlines() if "target " in line
    }
    assert verdicts["guided / plain, Llama-3.1-8B lora, T=1024 K=1"].endswith(" met")
    assert verdicts["guided / plain, Llama-3.1-8B lora, T=1024 K=3"].endswith("NOT MET")
    assert verdicts["share of copy bandwidth, plain Llama-3.1-8B T=1024"].endswith("NOT MET")
    assert "against loop                 12.00x at Llama-3.1-8B lora B=1 T=1024 K=2" in text


def test_a_cpu_has_targets_of_its_own() -> None:
    text = "\n".join(targets.digest(record(cpu_cases()[:1], device="CPU (somewhere)", ratio=1.15, peers=1.5)))
    assert text.count("NOT MET") == 2 and text.count(" met") == 2, text
    empty = record([], device="CPU") | {"rows": record(cpu_cases()[1:2])["rows"]}
    assert "\n".join(targets.digest(empty)).count("NOT MEASURED") == len(decode_targets.ON_CPU)


def test_rows_become_tables() -> None:
    made = record(cpu_cases()[:2])
    for row in made["rows"]:
        row["notes"]["host_gap"] = None
    text = decode_table.tables(made)
    assert "host gap" not in text and "over genarm" in text and "c0ffee" in text and "tiny" not in text
    assert "**small**, LoRA reward models on the base, batch 1, context 256, bfloat16; 9 rounds of 32 steps" in text
    assert "| genarm | 1 | 4.16 |" in text and "| 1.04 (1.03–1.05) |" in text
    assert "host gap" in decode_table.tables(record([cpu_cases()[0]]))


def test_sweeps_are_drawn(tmp_path: Path) -> None:
    source = tmp_path / "decode.json"
    source.write_text(json.dumps(record([case for case in gpu_cases() if not case.full])))
    decode_plot.main(source, tmp_path)
    for name in ("batch", "context"):
        assert (tmp_path / f"decode-{name}.png").read_bytes().startswith(b"\x89PNG")
    batch = decode_plot.panels(json.loads(source.read_text()), "B")
    assert list(batch) == ["Llama-3.1-8B, LoRA reward models\ncontext 3,072"]
    points = decode_plot.series(next(iter(batch.values())), "B", 1)
    assert [row["notes"]["B"] for row in points] == [1, 4, 16, 64]


def test_what_is_no_sweep_is_not_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "decode.json"
    source.write_text(json.dumps(record([cpu_cases()[0]])))
    decode_plot.main(source, tmp_path)
    assert "nothing drawn" in capsys.readouterr().out and not list(tmp_path.glob("*.png"))
    for content, words in (({"rows": []}, "no rows"), ({"rows": [{"notes": {}}]}, "another suite")):
        source.write_text(json.dumps(content))
        with pytest.raises(SystemExit, match=words):
            decode_table.load(source)
    with pytest.raises(SystemExit, match="cannot be read"):
        decode_table.load(tmp_path / "absent.json")


def test_the_floor_of_guidance_on_an_8b_model() -> None:
    rows = [line.split(" | ") for line in decode_floors.table().splitlines() if line.startswith("| Llama-3.1-8B")]
    floors = {(row[1], row[2]): [float(value.strip(" |")) for value in row[4:]] for row in rows}
    assert floors["1", "1,024"] == [1.014, 1.029, 1.043]
    assert floors["1", "3,072"] == [1.032, 1.063, 1.095]
