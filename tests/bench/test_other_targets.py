"""Digests of the log-probability suite and the soak: targets are judged on the worst shape, and on a device only."""

from __future__ import annotations

from typing import Any

import pytest

from bench import soak, targets, test_soak


def logprobs_record(device: str, over: tuple[float, float], peaks: tuple[float, float]) -> dict[str, Any]:
    """Two shapes; ``over`` are our times over Liger's, ``peaks`` its peaks where ours is 100 MB."""
    rows = []
    for V, ratio, peak in zip((32000, 128256), over, peaks, strict=True):
        shape = {"mode": "frozen", "N": 4096, "H": 4096, "V": V, "dtype": "bfloat16"}
        ours = {"way": "ours", "peak_MB": 100.0, "over_liger": ratio, "over_liger-sum": None}
        rows += [{"name": "a", "median_us": 1.0, "notes": shape | ours}]
        rows += [{"name": "b", "median_us": 1.0, "notes": shape | {"way": "liger", "peak_MB": peak}}]
    return {"suite": "logprobs", "device": device, "rows": rows}


def test_liger_is_judged_at_the_worst_shape() -> None:
    lines = targets.digest(logprobs_record("a device", (0.5, 0.8), (100.0, 300.0)))
    assert [line.split()[-1] for line in lines[1:]] == ["met", "met", "MEASURED", "MEASURED"]
    assert "1.25" in lines[1] and "NOT MET" not in "".join(lines)
    lines = targets.digest(logprobs_record("a device", (0.5, 1.1), (90.0, 300.0)))
    assert all("NOT MET" in line for line in lines[1:3])


def test_nothing_is_judged_on_a_cpu() -> None:
    assert "none judged" in targets.digest(logprobs_record("CPU (somewhere)", (2.0, 2.0), (1.0, 1.0)))[1]


@pytest.mark.parametrize(("growth", "recaptures", "verdicts"), [(0.0, 0, "met met"), (8.0, 2, "NOT MET NOT MET")])
def test_a_soak_on_a_device_may_not_grow_or_capture_again(growth: float, recaptures: int, verdicts: str) -> None:
    notes = {"soaked_steps": 10_000, "growth": growth, "memory_MB": 9.0, "captures": 3, "recaptures": recaptures}
    lines = targets.digest({"device": "a device", "rows": [{"name": "soak", "median_us": 1.0, "notes": notes}]})
    assert "10000 steps" in lines[0]
    bounds = [line.split("target")[1].split(maxsplit=2)[2] for line in lines[1:]]
    assert " ".join(bounds) == verdicts


def test_the_suite_notes_what_the_soak_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_soak, "soak", lambda steps, device: soak.Soak(device, 2.0, [10**6] * 10, [1] * 10))
    noted: dict[str, Any] = {}

    class Benchmark:
        extra_info = noted

        def pedantic(self, call: Any, rounds: int) -> None:
            call()

    test_soak.test_soak(Benchmark())
    assert noted["soaked_steps"] == 10 * soak.ROUND_STEPS and noted["growth"] == 0 and noted["recaptures"] == 0
