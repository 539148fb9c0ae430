"""The sampling suite itself: peers draw what they should, wrong draws are caught, reports and pictures are honest."""

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from bench import agreement, measure, peers, report, roofline, targets
from bench.cases import CPU_GRID, FILTERS, GPU_GRID, IMPLEMENTATIONS

CPU = torch.device("cpu")
B, M, V = 8, 2, 2000


def draws(count: int = 8) -> list[peers.Draw]:
    torch.manual_seed(1)
    return [peers.make_draw(B, M, V, torch.float32, CPU, index) for index in range(count)]


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("implementation", ["ours", "ours+logprobs", "eager", "hf"])
def test_an_implementation_draws_from_the_guided_distribution(implementation: str, filters: str) -> None:
    inputs = draws()
    sample = peers.BUILDERS[implementation](FILTERS[filters], B, CPU)
    agreement.check(inputs, [sample(draw) for draw in inputs], FILTERS[filters])


@pytest.mark.parametrize("filters", FILTERS)
def test_flashinfer_is_called_as_it_asks_to_be(monkeypatch: pytest.MonkeyPatch, filters: str) -> None:
    monkeypatch.setitem(sys.modules, "flashinfer", _module("flashinfer"))
    monkeypatch.setitem(sys.modules, "flashinfer.sampling", _flashinfer_sampling())
    inputs = draws()
    sample = peers.BUILDERS["flashinfer"](FILTERS[filters], B, CPU)
    agreement.check(inputs, [sample(draw) for draw in inputs], FILTERS[filters])


def test_without_flashinfer_its_absence_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert "not installed" in peers.missing("flashinfer", torch.device("cuda"))
    assert all(peers.missing(name, CPU) is None for name in IMPLEMENTATIONS if name != "flashinfer")


@pytest.mark.parametrize("filters", FILTERS)
def test_uniform_draws_are_caught(filters: str) -> None:
    inputs = draws()
    with pytest.raises(AssertionError):
        agreement.check(inputs, [torch.randint(V, (B,)) for _ in inputs], FILTERS[filters])


@pytest.mark.parametrize("filters", [name for name in FILTERS if name != "none"])
def test_a_filter_left_out_is_caught(filters: str) -> None:
    inputs = draws()
    sample = peers.BUILDERS["eager"]({}, B, CPU)
    with pytest.raises(AssertionError, match="outside"):
        agreement.check(inputs, [sample(draw) for draw in inputs], FILTERS[filters])


def test_a_greedy_draw_is_caught() -> None:
    inputs = draws()
    tokens = [peers.weighted_sum(draw.logits, draw.weights).argmax(-1) for draw in inputs]
    with pytest.raises(AssertionError, match="off by"):
        agreement.check(inputs, tokens, {})


@pytest.mark.parametrize("size", [64_000, 4_000_000, 65_667_072, 311_164_928])
def test_inputs_rotate_through_three_times_the_l2(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    l2 = 60 * 2**20
    monkeypatch.setattr(measure, "l2_bytes", lambda: l2)
    plan = measure.rotation(size, torch.device("cuda"))
    assert 2 <= plan.sets <= plan.calls
    # With a set a call, the read between two rounds does the rotating.
    assert plan.sets == plan.calls or (plan.sets - 1) * size >= 3 * l2


def test_the_device_s_part_of_the_grid_has_the_targets_first() -> None:
    names = [case.name for case in GPU_GRID.cases() if GPU_GRID.fits(case)]
    assert names.index("B64-M4-V128256-none-ours") < 50 and names.index("B1-M2-V128256-none-ours") < 50
    assert len(names) == 392 and len(GPU_GRID.cases()) == 1080
    assert all(f"B64-M4-V128256-none-{name}" in names for name in IMPLEMENTATIONS)
    assert sum(CPU_GRID.fits(case) for case in CPU_GRID.cases()) == 126


def record(device: str = "a device", slower: float = 12.0, bandwidth: float = 4000.0) -> dict:
    """A suite's JSON in which `ours` takes 20 µs at every shape and the eager chain `slower` times that."""
    rows = []
    for filters, shape in [("none", (64, 4, 128256)), ("none", (1, 2, 128256)), ("top_k+top_p", (64, 4, 128256))]:
        for name, microseconds in (("ours", 20.0), ("eager", 20.0 * slower)):
            size = 2 * shape[0] * shape[1] * shape[2]
            notes = {"implementation": name, "filters": filters, **dict(zip("BMV", shape, strict=True))}
            notes |= {"mode": "graph", "bytes": size, "GB/s": size / microseconds / 1e3, "copy_GB/s": bandwidth}
            notes["share_of_copy"] = notes["GB/s"] / bandwidth
            rows.append({"name": "row", "median_us": microseconds, "notes": notes})
    return {"suite": "sampling", "device": device, "versions": {"torch": "2"}, "commit": "c0ffee", "rows": rows}


def test_targets_are_judged_on_what_was_measured() -> None:
    lines = targets.digest(record())[-6:]
    verdicts = ["NOT MET", "NOT MET", " met", " met", "NOT MEASURED", "NOT MEASURED"]
    assert all(line.endswith(verdict) for line, verdict in zip(lines, verdicts, strict=True)), lines
    assert "0.821" in lines[0] and "20" in lines[1] and "12" in lines[3]


def test_no_target_is_judged_on_a_cpu() -> None:
    text = "\n".join(targets.digest(record(device="CPU (somewhere)")))
    assert "none judged" in text and "NOT MET" not in text


def test_a_suite_that_was_killed_keeps_its_rows(tmp_path: Path) -> None:
    rows = [json.dumps(row) for row in record()["rows"]]
    (tmp_path / "sampling.jsonl").write_text("\n".join(rows))
    report.write("sampling", tmp_path, tmp_path, 124, "pytest")
    written = json.loads((tmp_path / "sampling.json").read_text())
    assert len(written["rows"]) == len(rows) and written["exit_status"] == 124


def test_the_roofline_is_drawn_and_tabulated(tmp_path: Path) -> None:
    source = tmp_path / "sampling.json"
    source.write_text(json.dumps(record()))
    roofline.main(source, tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "roofline.md").read_text()
    assert "| no filter | 64 | 4 | 128256 | 20 | 240 |" in table
    assert all(word in table for word in ("a device", "torch 2", "c0ffee"))


def test_the_roofline_refuses_what_it_cannot_draw(tmp_path: Path) -> None:
    source = tmp_path / "sampling.json"
    empty, bare = record() | {"rows": []}, record()
    del bare["rows"][0]["notes"]["copy_GB/s"]
    for content, words in ((empty, "no rows"), (bare, "copy bandwidth"), ([], "no rows")):
        source.write_text(json.dumps(content))
        with pytest.raises(SystemExit, match=words):
            roofline.load(source)
    with pytest.raises(SystemExit, match="cannot be read"):
        roofline.load(tmp_path / "absent.json")


def _module(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    return module


def _flashinfer_sampling() -> ModuleType:
    """FlashInfer's signatures over plain torch."""

    def softmax(logits: Tensor, temperature=None, enable_pdl=None) -> Tensor:
        return logits.softmax(-1)

    def draw(probs: Tensor, seed: Tensor, offset: Tensor, **filters: float) -> Tensor:
        assert seed.dtype == offset.dtype == torch.int64 and seed.shape == offset.shape == (1,)
        return peers.chain([probs.log()], torch.ones(1), **filters).int()

    def sampling_from_logits(logits: Tensor, indices=None, *, seed: Tensor, offset: Tensor) -> Tensor:
        return draw(logits.softmax(-1), seed, offset)

    def top_k_top_p_sampling_from_logits(
        logits: Tensor, top_k: int, top_p: float, indices=None, *, seed: Tensor, offset: Tensor
    ) -> Tensor:
        return draw(logits.softmax(-1), seed, offset, top_k=top_k, top_p=top_p)

    module = _module("flashinfer.sampling")
    module.softmax, module.sampling_from_logits = softmax, sampling_from_logits
    module.top_k_top_p_sampling_from_logits = top_k_top_p_sampling_from_logits
    for name in ("top_k", "top_p", "min_p"):

        def kernel(probs: Tensor, value: float, indices=None, *, seed: Tensor, offset: Tensor, name=name) -> Tensor:
            return draw(probs, seed, offset, **{name: value})

        setattr(module, f"{name}_sampling_from_probs", kernel)
    return module
