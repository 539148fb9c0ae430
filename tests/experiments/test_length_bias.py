"""The study of length: EOS's part against enumeration, pairs that leave length free, and a small run of everything."""

import gzip
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.length_bias import __main__ as study
from experiments.length_bias import lengths
from experiments.length_bias.lengths import chances_of_eos, expected_lengths, shares
from experiments.length_bias.matched import pairs_of_any_length
from genarm.embedded import REWARDS

BOS, EOS, V, T = 0, 2, 3, 4
LETTERS = [token for token in range(V) if token != EOS]


class Markov:
    """A language model whose next token depends on the last one and the position."""

    def __init__(self, seed: int) -> None:
        self.table = torch.randn(T, V, V, generator=torch.Generator().manual_seed(seed))

    def __call__(self, ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[torch.arange(ids.shape[1]), ids])


def guided(models, weight: float, prefix: tuple[int, ...]) -> torch.Tensor:
    """The guided distribution behind a prefix, BOS first."""
    base, reward = (model(torch.tensor([prefix])).logits[0, -1].double().log_softmax(-1) for model in models)
    return (base + weight * reward).softmax(-1)


def mean_length(models, content: float, ending: float, prefix: tuple[int, ...] = (BOS,)) -> float:
    """Expected tokens behind a prefix, drawn by definition: end by one weight's chance, else go on by another's."""
    if len(prefix) > T:
        return 0.0
    stays = 1 - float(guided(models, ending, prefix)[EOS])
    letters = guided(models, content, prefix)[LETTERS]
    letters = (letters / letters.sum()).tolist()
    return 1 + stays * sum(
        chance * mean_length(models, content, ending, (*prefix, token))
        for token, chance in zip(LETTERS, letters, strict=True)
    )


def chance_of(models, weight: float, path: tuple[int, ...]) -> float:
    """How likely a path is where nothing ends."""
    chance = 1.0
    for place, token in enumerate(path):
        letters = guided(models, weight, (BOS, *path[:place]))
        chance *= float(letters[token] / letters[LETTERS].sum())
    return chance


@pytest.mark.parametrize("content", (0.0, 1.5))
def test_lengths_along_paths_without_eos_are_those_of_the_process(content):
    models = Markov(0), Markov(1)
    paths = list(itertools.product(LETTERS, repeat=T))
    weighed = torch.tensor([chance_of(models, content, path) for path in paths], dtype=torch.float64)
    endings = (0.0, 1.5)
    for ending, chances in zip(endings, chances_of_eos(models, endings, torch.tensor(paths), BOS, EOS), strict=True):
        found = float(weighed @ expected_lengths(chances))
        assert found == pytest.approx(mean_length(models, content, ending), abs=1e-5)


def test_what_changes_endings_alone_is_all_eos_and_what_changes_content_alone_is_none_of_it():
    short, long = np.full(8, 5.0), np.full(8, 9.0)
    cells = list(itertools.product(("base", "guided"), repeat=2))
    by_ending = shares({(content, ending): short if ending == "guided" else long for content, ending in cells})
    by_content = shares({(content, ending): short if content == "guided" else long for content, ending in cells})
    assert [by_ending[part]["value"] for part in ("change", "eos_part", "content_part")] == [-4, -4, 0]
    assert [by_content[part]["value"] for part in ("change", "eos_part", "content_part")] == [-4, 0, -4]


def statements() -> list[dict]:
    personas = ("interest-in-art", "interest-in-sports")
    return [
        {"statement": f"{persona} {matches} {'long ' * n}", "persona": persona, "matches": matches, "confidence": 0.9}
        for n in range(4)
        for persona in personas
        for matches in (True, False)
    ]


def test_pairs_of_any_length_set_the_persona_against_its_opposite_and_against_others():
    pairs = pairs_of_any_length(statements(), "interest-in-art", 60)
    assert len(pairs) == 60 and {pair["chosen"][:20] for pair in pairs} == {"interest-in-art True"}
    assert {pair["rejected"][:21] for pair in pairs if pair["kind"] == "stance"} == {"interest-in-art False"}
    assert all(pair["rejected"].startswith("interest-in-sports") for pair in pairs if pair["kind"] == "topic")
    longer = [len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs]
    assert 10 < sum(longer) < 50


def test_the_study_runs_from_data_to_tables(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "data" / "persona"
    folder.mkdir(parents=True)
    pairs = [{"objective": "interest-in-art", "prompt": "", "chosen": "I love art", "rejected": "I love money a lot"}]
    for name, rows in (("statements", statements()), ("pairs", pairs)):
        (folder / f"{name}.test.jsonl.gz").write_bytes(zipped(rows))
    monkeypatch.setattr(study, "REWARDS", {"art": REWARDS["art"]})
    monkeypatch.setattr(lengths, "WEIGHTS", (0.0, 1.0))
    monkeypatch.setattr(lengths, "NEW_TOKENS", 6)
    command = ["--output", str(tmp_path / "out")]
    sizes = ["--texts", "2", "--paths", "2", "--pairs", "6", "--seeds", "0"]
    assert study.main(["--data", str(tmp_path / "data"), *command, *sizes]) == 0
    shown = capsys.readouterr().out
    art = json.loads((tmp_path / "out" / study.FILE).read_text())["objectives"]["art"]
    assert [row["texts"] for row in art["lengths"]] == [2, 2]
    assert all(1 <= mean["value"] <= 6 for mean in art["parts"]["lengths"].values())
    assert [scorer["pairs"] for report in art["accuracy"] for scorer in report["scorers"]] == [6] * 4 + [1] * 4
    assert "| art | AR-RM, mean per token | 6 |" in shown
    assert study.main([*command, "--picture", str(tmp_path / "picture.png")]) == 0 and capsys.readouterr().out in shown
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def zipped(rows: list[dict]) -> bytes:
    return gzip.compress("\n".join(map(json.dumps, rows)).encode())
