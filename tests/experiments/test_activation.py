"""The experiment's pairs hide nothing in their statements, and its table says its runs."""

import gzip
import json
from pathlib import Path

import pytest

from experiments.activation.pairs import PROMPTS, persona_pairs, spoken
from experiments.activation.report import complete, seeds_of, tables
from experiments.activation.runs import SUITES, chosen_rates, planned


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "persona").mkdir()
    rows = [
        {"statement": f"{persona} {number}", "persona": persona, "matches": number < 4, "confidence": 0.9}
        for persona in PROMPTS
        for number in range(5)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "persona/statements.train.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return tmp_path


def test_what_cannot_see_the_prompt_is_right_on_half_of_the_pairs(data):
    pairs = persona_pairs(data, "train", 100)
    for one, other in zip(pairs[::2], pairs[1::2], strict=True):
        assert (one.chosen, one.rejected) == (other.rejected, other.chosen)
        assert one.prompt != other.prompt
    for pair in pairs:
        persona = str(pair.chosen).rsplit(" ", 1)[0]
        assert pair.prompt in (spoken(persona, 0), spoken(persona, 1)) and not str(pair.chosen).endswith("4")


def test_every_wording_names_one_persona():
    wordings = [spoken(persona, wording) for persona in PROMPTS for wording in (0, 1)]
    assert len(set(wordings)) == 2 * len(PROMPTS) == 68


def test_rates_are_chosen_on_pairs_held_out_and_kinds_share_all_else():
    suite = SUITES["persona"]
    tried = [
        {"kind": kind, "rate": rate, "part": "held out", "right": right}
        for kind, rights in (("ordinary", ("1100", "1000")), ("activated", ("1000", "1110")))
        for rate, right in zip(suite.rates, rights, strict=True)
    ]
    chosen = chosen_rates({"runs": tried}, suite)
    assert chosen == {"ordinary": 2e-3, "activated": 5e-3}
    jobs = planned(suite, [0, 1], chosen)
    assert [(job.kind, job.rank, job.rate, job.seed) for job in jobs[:3]] == [
        ("ordinary", 8, 2e-3, 0),
        ("activated", 8, 5e-3, 0),
        ("activated", 16, 5e-3, 0),
    ]
    assert len(jobs) == 6 and all(job.part == "test" for job in jobs)


def test_the_table_pairs_the_kinds_of_complete_seeds(tmp_path):
    def run(kind: str, rank: int, right: str, seed: int = 0, part: str = "test") -> dict:
        return {"kind": kind, "rank": rank, "seed": seed, "part": part, "right": right}

    runs = [
        *(run("ordinary", 8, "1111"), run("activated", 8, "1110"), run("activated", 16, "0110")),
        *(run("ordinary", 8, "0000", seed=1), run("activated", 8, "0000", part="held out")),
    ]
    result = {"suite": "made", "base": "embedded", "clusters": [0, 0, 1, 1], "runs": runs}
    (tmp_path / "activation_made_embedded.json").write_text(json.dumps(result))
    assert seeds_of(result) == [0]
    cells = [cell.strip().split(" ")[0] for cell in tables(complete(tmp_path)).splitlines()[-1].strip("|").split("|")]
    assert cells == ["made", "embedded", "4", "100.0", "75.0", "50.0", "-25.0", "-50.0"]


def test_the_page_has_the_table_of_the_runs_on_record() -> None:
    root = Path(__file__).parents[2]
    table = tables(complete(root / "bench" / "results" / "cpu"))
    assert table.count("\n") > 1 and table in (root / "docs" / "activated.md").read_text(encoding="utf-8")
