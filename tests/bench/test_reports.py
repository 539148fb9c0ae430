"""What is made of a suite's rows: digests judge what was measured, tables and pictures hold it, others are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import plots, report, tables, targets
from bench.decode_cases import Case, cpu_cases, gpu_cases

RESULTS = Path(__file__).parents[2] / "bench/results"
DEFAULT = [case for case in gpu_cases() if not case.full]


def record(suite: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"suite": suite, "device": "a device", "versions": {"torch": "2"}, "commit": "c0ffee", "rows": rows}


def sampling_rows() -> list[dict[str, Any]]:
    """`ours` takes 20 µs at every shape and the eager chain 12 times that."""
    rows = []
    for filters, B, M in [("none", 64, 4), ("none", 1, 2), ("top_k+top_p", 64, 4)]:
        for name, microseconds in (("ours", 20.0), ("eager", 240.0)):
            size = 2 * B * M * 128256
            notes = {"implementation": name, "filters": filters, "B": B, "M": M, "V": 128256, "mode": "graph"}
            notes |= {"bytes": size, "GB/s": size / microseconds / 1e3, "copy_GB/s": 4000.0}
            notes["share_of_copy"] = notes["GB/s"] / 4000.0
            rows.append({"name": "row", "median_us": microseconds, "notes": notes})
    return rows


def decode_rows(cases: list[Case]) -> list[dict[str, Any]]:
    """Guidance costs a factor of 1.04 for every reward model, rows of one prompt one of 1.05, adapters asleep on it one
    of 0.95, and peers take 12 times our time."""
    rows = []
    for case in cases:
        for contender in case.contenders:
            factors = {"ours": None, "activated": 0.95}
            over = factors.get(contender.way, 1.05 if contender.is_ours else 12.0)
            times = (over or 1.0) * 1.04**contender.K
            notes = {"contender": contender.way, "K": contender.K, "model": case.model, "rewards": case.rewards}
            notes |= {"part": case.part, "B": case.batch, "context": case.context, "dtype": "bfloat16"}
            notes |= {"engine": "fused", "steps": 32, "tokens/s": 1.0, "bytes": 1e10, "host_gap": 0.02}
            notes |= {"GB/s": 2500.0, "share_of_copy": 0.6, "copy_GB/s": 4000.0, "first_ms": 50.0}
            notes |= {
                "prompts_read": 1.0 if contender.is_ours else None,
                "launches": 347.0 if contender.is_ours else None,
            }
            notes |= {"cache_MB": 12.5 if contender.is_ours else None, "first_ratio": 1.05}
            notes |= {"launches_by": "graph", "launches_expected": 347 if contender.way == "ours" else None}
            for name, value in (("ratio", times), ("over_ours", over)):
                notes |= {name: value, f"{name}_low": value and value * 0.99, f"{name}_high": value and value * 1.01}
            rows.append({"name": case.name, "median_us": 4000.0 * times, "rounds": 9, "notes": notes})
    return rows


def logprobs_rows(over: tuple[float, float], peaks: tuple[float, float]) -> list[dict[str, Any]]:
    """Two shapes; ``over`` are our times over Liger's, ``peaks`` its peaks where ours is 100 MB."""
    rows = []
    for V, ratio, peak in zip((32000, 128256), over, peaks, strict=True):
        shape = {"mode": "frozen", "N": 4096, "H": 4096, "V": V, "dtype": "bfloat16"}
        ours = {"way": "ours", "peak_MB": 100.0, "over_liger": ratio, "over_liger-sum": None}
        rows += [{"notes": shape | ours}, {"notes": shape | {"way": "liger", "peak_MB": peak}}]
    return rows


def verdicts(lines: list[str]) -> list[str]:
    """Of the lines that hold a target."""
    return [line.split("target ")[1].split(maxsplit=2)[2] for line in lines if "  target " in line]


def test_the_sampler_s_targets_are_judged_on_what_was_measured() -> None:
    lines = targets.digest(record("sampling", sampling_rows()))
    assert verdicts(lines) == ["NOT MET", "NOT MET", "met", "met", "NOT MEASURED", "NOT MEASURED"]
    assert "0.821" in lines[-6] and "20" in lines[-5] and "12" in lines[-3]
    assert targets.digest(record("sampling", [])) is None and targets.digest(record("linear", [{}])) is None


def test_no_target_of_a_gpu_is_judged_on_a_cpu() -> None:
    for made in (record("sampling", sampling_rows()), record("logprobs", logprobs_rows((2.0, 2.0), (1.0, 1.0)))):
        lines = targets.digest(made | {"device": "CPU (somewhere)"})
        assert "none judged" in lines[-1] and not verdicts(lines)


def test_decoding_s_targets_are_judged_on_their_own_rows() -> None:
    lines = targets.digest(record("decode", decode_rows(DEFAULT)))
    assert verdicts(lines).count("NOT MET") == 2 and "NOT MEASURED" not in verdicts(lines), lines
    judged = {line[2:52].strip(): line for line in lines}
    assert judged["guided / plain, Llama-3.1-8B lora, T=1024 K=1"].endswith(" met")
    assert judged["guided / plain, Llama-3.1-8B lora, T=1024 K=3"].endswith("NOT MET")
    assert judged["share of copy bandwidth, plain Llama-3.1-8B T=1024"].endswith("NOT MET")
    assert "  against loop                 12.00x at Llama-3.1-8B lora B=1 T=1024 K=2" in lines


def test_decoding_on_a_cpu_has_targets_of_its_own() -> None:
    made = tables.read(RESULTS / "cpu/decode.json", "decode")
    unknown = ["NOT MEASURED"] * 4  # the record is older than the particles
    assert verdicts(targets.digest(made)) == ["met"] * 4 + unknown
    slow = [row | {"notes": row["notes"] | {"ratio": 1.4, "over_ours": 0.9}} for row in made["rows"]]
    assert verdicts(targets.digest(made | {"rows": slow})) == ["NOT MET"] * 4 + unknown
    tiny = [row for row in made["rows"] if row["notes"]["model"] == "tiny"]
    assert tiny and verdicts(targets.digest(made | {"rows": tiny})) == ["NOT MEASURED"] * 8


def test_particles_are_held_to_a_batch_of_as_many_rows_and_to_one_prompt() -> None:
    made = record("decode", decode_rows(cpu_cases())) | {"device": "CPU (somewhere)"}
    assert verdicts(targets.digest(made))[4:] == ["met"] * 4
    for row in made["rows"]:
        if row["notes"]["contender"] == "particles":
            row["notes"] |= {"over_ours": 1.2, "prompts_read": 8.0}
    lines = targets.digest(made)
    assert verdicts(lines)[4:] == ["NOT MET"] * 4
    assert any("8 particles / batch of 8, small K=3" in line and "1.2" in line for line in lines)
    text = tables.decode(made)
    assert "| genarm, particles of one prompt | 3 |" in text and "| prompts read |" in text


def test_liger_is_judged_at_the_worst_shape() -> None:
    lines = targets.digest(record("logprobs", logprobs_rows((0.5, 0.8), (100.0, 300.0))))
    assert verdicts(lines) == ["met", "met", "NOT MEASURED", "NOT MEASURED"] and "1.25" in lines[1]
    lines = targets.digest(record("logprobs", logprobs_rows((0.5, 1.1), (90.0, 300.0))))
    assert verdicts(lines)[:2] == ["NOT MET", "NOT MET"]


def test_a_soak_on_a_device_may_not_grow_or_capture_again() -> None:
    for growth, recaptures, expected in ((0.0, 0, ["met", "met"]), (8.0, 2, ["NOT MET", "NOT MET"])):
        notes = {"soaked_steps": 10_000, "growth": growth, "memory_MB": 9.0, "captures": 3, "recaptures": recaptures}
        lines = targets.digest(record("soak", [{"notes": notes}]))
        assert "10000 steps" in lines[0] and verdicts(lines) == expected


def test_a_suite_that_was_killed_keeps_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.dumps(row) for row in sampling_rows()]
    (tmp_path / "sampling.jsonl").write_text("\n".join(rows))
    report.write("sampling", tmp_path, tmp_path, 124, "pytest")
    written = json.loads((tmp_path / "sampling.json").read_text())
    assert len(written["rows"]) == len(rows) and written["exit_status"] == 124
    report.show(tmp_path)
    shown = capsys.readouterr().out
    assert "FAILED with exit status 124" in shown and "against eager" in shown


def test_the_sampler_s_rows_become_a_table_and_a_picture(tmp_path: Path) -> None:
    source = tmp_path / "sampling.json"
    source.write_text(json.dumps(record("sampling", sampling_rows())))
    text = tables.table(source)
    assert "| no filter | 64 | 4 | 128256 | 20 | 240 |" in text
    assert all(word in text for word in ("a device", "torch 2", "c0ffee"))
    plots.main(source, tmp_path)
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_tables_hold_what_is_on_record_without_empty_columns() -> None:
    text = tables.table(RESULTS / "cpu/decode.json")
    assert "**small**, LoRA reward models on the base, batch 1, context 256, bfloat16; 9 rounds of 32 steps" in text
    assert "| genarm | 1 | 31.76 | 31.5 | 11 | 26% | 1.15 (1.15–1.16) |  | 152 |" in text
    assert "host gap" not in text and "tiny" not in text
    assert "host gap" in tables.decode(record("decode", decode_rows(DEFAULT)))
    rows = json.loads((RESULTS / "cpu/logprobs.json").read_text())["rows"]
    text = tables.table(RESULTS / "cpu/logprobs.json")
    assert len(text.splitlines()) == 4 + len(rows)
    assert "over all logits" in text and "over Liger" not in text


def test_sweeps_are_drawn_where_there_are_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "decode.json"
    source.write_text(json.dumps(record("decode", decode_rows([cpu_cases()[0]]))))
    plots.main(source, tmp_path)
    assert "nothing drawn" in capsys.readouterr().out and not list(tmp_path.glob("*.png"))
    made = record("decode", decode_rows(DEFAULT))
    source.write_text(json.dumps(made))
    plots.main(source, tmp_path)
    for name in ("batch", "context"):
        assert (tmp_path / f"decode-{name}.png").read_bytes().startswith(b"\x89PNG")
    batch = plots.panels(made, "B")
    assert list(batch) == ["Llama-3.1-8B, LoRA reward models\ncontext 3,072"]
    assert [row["notes"]["B"] for row in plots.series(next(iter(batch.values())), "B", 1)] == [1, 4, 16, 64]


def test_what_is_no_suite_s_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "linear.json"
    for content, words in (("[]", "no rows"), ('{"rows": []}', "no rows"), ("{", "cannot be read")):
        path.write_text(content)
        with pytest.raises(SystemExit, match=words):
            tables.table(path)
    path.write_text(json.dumps(record("linear", [{"notes": {}}])))
    for reader in (tables.table, lambda source: plots.main(source, tmp_path)):
        with pytest.raises(SystemExit, match="another suite"):
            reader(path)


def test_launches_per_step_stand_last_in_the_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = record("decode", decode_rows(DEFAULT)) | {"exit_status": 0}
    for name in ("decode", "soak"):
        (tmp_path / f"{name}.json").write_text(
            json.dumps(made if name == "decode" else record("soak", []) | {"exit_status": 0})
        )
    report.show(tmp_path)
    shown = capsys.readouterr().out.split("launches per step:\n")[1].splitlines()
    assert shown[0].split() == ["Llama-3.1-8B", "lora", "B=1", "K=0", "ours", "347", "expected", "347", "by", "graph"]
    assert any("particles" in line and "expected -" in line for line in shown) and len(set(shown)) == len(shown)
    bare = [{"notes": {"launches": None}}, {"notes": {}}]  # of peers, of a CPU and of records from before
    assert targets.launches(record("decode", bare)) == []
