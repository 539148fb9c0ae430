"""Whose folder it is: nothing is deleted that no training run made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from training_cases import run_settings

from genarm.errors import InvalidArgumentError
from genarm.training import folder, record

FACTS: dict[str, Any] = {"data_sha256": "abc"}


def begun(**changes: Any) -> dict[str, Any]:
    return record.begin(run_settings("base", "data", **changes), FACTS)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_place_with_nothing_in_it_starts_from_nothing(overwrite: bool, tmp_path: Path) -> None:
    assert folder.earlier_run(tmp_path, begun(), overwrite) is None
    assert folder.earlier_run(tmp_path / "not there", begun(), overwrite) is None
    assert not (tmp_path / "not there").exists()
    (tmp_path / "checkpoints").mkdir()  # a run that was stopped before it wrote anything
    assert folder.earlier_run(tmp_path, begun(), overwrite) is None


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_others_are_never_touched(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(InvalidArgumentError, match="something other than a training run: choose another folder"):
        folder.earlier_run(tmp_path, begun(), overwrite)
    with pytest.raises(InvalidArgumentError, match=r"thesis\.tex is a file: name a folder"):
        folder.earlier_run(tmp_path / "thesis.tex", begun(), overwrite)
    (tmp_path / "training.json").write_text('{"plan": "run 10 km"}')
    with pytest.raises(InvalidArgumentError, match="no record of a training run"):
        folder.earlier_run(tmp_path, begun(), overwrite)


def test_the_same_run_is_found_again_and_another_is_named(tmp_path: Path) -> None:
    record.write(tmp_path, begun())
    assert folder.earlier_run(tmp_path, begun(), False) == begun()
    with pytest.raises(InvalidArgumentError, match="a run with another beta, rank: choose another folder, or --overw"):
        folder.earlier_run(tmp_path, begun(beta=9.0, rank=1), False)
    assert folder.earlier_run(tmp_path, begun(beta=9.0), True) is None


def test_clearing_empties_a_folder_and_follows_no_links_out_of_it(tmp_path: Path) -> None:
    kept, out = tmp_path / "kept", tmp_path / "out"
    for place in (kept, out / "checkpoints" / "checkpoint-5"):
        place.mkdir(parents=True)
        (place / "file").write_text("")
    (out / "link").symlink_to(kept)
    (out / "file").write_text("")
    (tmp_path / "out link").symlink_to(out)
    folder.clear(tmp_path / "out link")
    assert not list(out.iterdir()) and (kept / "file").exists() and (tmp_path / "out link").is_symlink()
    folder.clear(tmp_path / "new" / "one")
    assert (tmp_path / "new" / "one").is_dir()


def test_the_last_checkpoint_is_the_newest_whole_one(tmp_path: Path) -> None:
    assert folder.last_checkpoint(tmp_path / "none") is None
    for step, state in ((5, "{}"), (10, json.dumps({"global_step": 10})), (9, "{}"), (15, '{"global'), (20, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert folder.last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
