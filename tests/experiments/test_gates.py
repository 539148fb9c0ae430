"""The experiment on gates, small: its control's ends are those of the gates it stands beside."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import gates
from genarm import GuidedDecoder
from genarm.embedded import BASE, REWARDS


def test_the_control_and_the_gates_share_their_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gates, "NEW_TOKENS", 3)
    decoder = GuidedDecoder.from_pretrained(BASE, {"art": REWARDS["art"]}, device="cpu")
    bare = gates.figures(gates.write(decoder, "weight", 0.0, 1, 0))
    full = gates.figures(gates.write(decoder, "weight", gates.WEIGHT, 1, 0))
    for way, off, on in (("random", 0.0, 1.0), ("entropy", 99.0, 1e-9)):
        found = gates.figures(gates.write(decoder, way, off, 1, 0))
        assert found == {**bare, "share": 0.0} and found["kl"][0] == pytest.approx(0, abs=1e-5)
        assert gates.figures(gates.write(decoder, way, on, 1, 0)) == {**full, "share": 1.0}
    assert full["kl"][0] > 0.01
    result = {"weight": gates.WEIGHT, "ends": {"0.0": bare, "1.0": full}, "ways": {"entropy": {"2.0": full}}}
    assert [point["share"] for point in gates.lines(result)["entropy"]] == [0.0, 1.0, 1.0]
    gates.draw_gates(result, tmp_path / "gates.png")
    assert (tmp_path / "gates.png").stat().st_size > 10_000
