"""Whose folder it is, and its training.json: nothing is deleted that no run made, and two runs are told apart."""

import json

import pytest
from training_cases import run_settings

from genarm.errors import InvalidArgumentError
from genarm.training import folder

FACTS = {"data_sha256": "abc", "train": {"pairs": 3}, "held out": {"pairs": 0}}


def begun(base="base", facts=FACTS, data="data", **changes):
    return folder.new_record(run_settings(base, data, **changes), facts)


@pytest.mark.parametrize(("kind", "beta"), [("dpo", 0.3), ("trajectory-rm", None)])
def test_what_readers_of_the_weights_need_comes_first(kind, beta):
    found = begun(kind=kind, beta=0.3, objective="joy", seed=5)
    assert list(found.items())[:4] == [("kind", kind), ("objective", "joy"), ("beta", beta), ("base", "base")]
    assert (found["state"], found["seed"], found["data"]) == ("running", 5, FACTS)
    assert found["versions"].keys() == {"torch", "transformers", "peft", "accelerate", "trl"}


def test_a_record_is_read_as_it_was_written(tmp_path):
    found = folder.finished(begun(objective="Freude – ☀"), {"steps": 4}, [{"loss": 0.5, "step": 4}])
    folder.write_record(tmp_path / "new" / "folder", found)
    assert folder.read_record(tmp_path / "new" / "folder") == json.loads(json.dumps(found)) == found
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == ["training.json"]
    assert found["state"] == "complete" and found["metrics"] == {"steps": 4}
    assert folder.read_record(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"kind": "arm", "settings"', "is damaged"),
        (b"\xff", "is damaged"),
        (b"[1, 2]", "is not the record of a training run"),
        (b'{"settings": {}, "data": null}', "is not the record of a training run"),
        (b'{"settings": {}, "data": {}, "state": "complete"}', "is not the record of a training run"),
    ],
)
def test_a_damaged_record_is_an_error_and_not_another_run(text, reason, tmp_path):
    (tmp_path / "training.json").write_bytes(text)
    with pytest.raises(InvalidArgumentError, match=f"training.json {reason}.*choose another folder"):
        folder.read_record(tmp_path)


def test_runs_differ_in_the_settings_that_shape_them_and_in_their_rows(tmp_path):
    first, older, oldest = begun(), begun(), begun()
    del older["settings"]["max_length"], oldest["settings"]["load_in_4bit"]  # records of older forms
    for other, differing in (
        (begun(log_every=7, save_every=3, device="auto"), []),
        (begun(beta=0.7, seed=9), ["beta", "seed"]),
        (begun(kind="dpo"), ["kind"]),
        (begun("other"), ["base"]),
        (begun(facts={**FACTS, "data_sha256": "xyz"}), ["data"]),
        (begun(facts={**FACTS, "train": {"pairs": 2}}), ["data"]),
        (begun(data="elsewhere"), []),  # the same rows in another place
        ({**begun(), "versions": {"torch": "0"}}, []),
        (older, ["max_length"]),
        (oldest, []),  # when there was no such setting, no run had it
    ):
        assert folder.differences(first, other) == differing
    (tmp_path / "model.safetensors").write_bytes(b"old")
    first = begun(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"new")  # a base that was trained anew
    assert folder.differences(first, begun(str(tmp_path))) == ["base"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_place_with_nothing_in_it_starts_from_nothing_and_files_of_others_are_never_touched(overwrite, tmp_path):
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)  # a run that was stopped before it wrote anything
    for place in (tmp_path / "new", tmp_path / "not there"):
        assert folder.earlier_run(place, begun(), overwrite) is None
    assert not (tmp_path / "not there").exists()
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(InvalidArgumentError, match="something other than a training run: choose another folder"):
        folder.earlier_run(tmp_path, begun(), overwrite)
    with pytest.raises(InvalidArgumentError, match=r"thesis\.tex is a file: name a folder"):
        folder.earlier_run(tmp_path / "thesis.tex", begun(), overwrite)
    (tmp_path / "training.json").write_text('{"plan": "run 10 km"}')
    with pytest.raises(InvalidArgumentError, match="not the record of a training run"):
        folder.earlier_run(tmp_path, begun(), overwrite)


def test_the_same_run_is_found_again_and_another_is_named(tmp_path):
    folder.write_record(tmp_path, begun())
    assert folder.earlier_run(tmp_path, begun(), False) == begun()
    with pytest.raises(InvalidArgumentError, match="a run with another beta, rank: choose another folder, or --overw"):
        folder.earlier_run(tmp_path, begun(beta=9.0, rank=1), False)
    assert folder.earlier_run(tmp_path, begun(beta=9.0), True) is None


def test_clearing_empties_a_folder_and_follows_no_links_out_of_it(tmp_path):
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


def test_the_last_checkpoint_is_the_newest_whole_one(tmp_path):
    assert folder.last_checkpoint(tmp_path / "none") is None
    for step, state in ((5, "{}"), (10, json.dumps({"global_step": 10})), (9, "{}"), (15, '{"global'), (20, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert folder.last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
