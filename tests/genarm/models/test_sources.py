"""Models as a command line names them."""

import pytest

from genarm.errors import GenARMError, InvalidArgumentError, LoadingError
from genarm.models import sources
from genarm.models.sources import RewardChoice, fingerprint, model_path, parse_reward, parse_reward_bases, parse_rewards


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("help=org/model:0.5", ("help", "org/model", 0.5)),
        ("help=org/model", ("help", "org/model", 1.0)),
        ("help=one:two", ("help", "one:two", 1.0)),
        ("help=one:two:-3e-1", ("help", "one:two", -0.3)),
        ("help=a=b:1", ("help", "a=b", 1.0)),
        ("art:0.25", ("art", str(sources.REWARDS["art"]), 0.25)),
        ("art", ("art", str(sources.REWARDS["art"]), 1.0)),
        ("risk-activated:2", ("risk-activated", str(sources.ACTIVATED["risk-activated"]), 2.0)),
    ],
)
def test_a_reward_is_split_at_its_last_colon_if_a_number_follows(text, choice, monkeypatch):
    monkeypatch.setattr(sources, "model_path", lambda path: path)
    assert parse_reward(text) == RewardChoice(*choice)


def test_a_folder_that_was_trained_is_named_by_its_objective(tmp_path, monkeypatch):
    folder = tmp_path / "run=7"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_reward("run=7:0.5") == RewardChoice("run", "7", 0.5)
    (folder / "training.json").write_text('{"objective": "joy"}')
    found = str(folder.resolve())
    assert parse_reward("run=7:0.5") == parse_reward(f"{folder}:0.5") == RewardChoice("joy", found, 0.5)
    assert parse_reward(f"mine={folder}") == RewardChoice("mine", found, 1.0)
    (folder / "training.json").write_text("{")
    assert parse_reward("run=7:0.5") == RewardChoice("run", "7", 0.5)
    (folder / "training.json").write_text('{"objective": "base"}')
    with pytest.raises(GenARMError, match="as the base model is"):
        parse_reward("run=7:0.5")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("help=org/model:nan", "has the weight nan: weights are finite"),
        ("help=org/model:inf", "has the weight inf: weights are finite"),
        ("=org/model:1", "cannot be read: write NAME=PATH:WEIGHT"),
        ("help=:1", "cannot be read: write NAME=PATH:WEIGHT"),
        ("humour:1.0", "names no embedded reward model .art, science, .*, risk-activated.: write NAME=PATH:WEIGHT"),
        ("", "names no embedded reward model"),
        ("art:foo", "has the weight 'foo', which is no number: write art:1.0"),
        ("a=/tmp:", "has the weight '', which is no number: write a=/tmp:1.0"),
        ("art=1.0", "has a number for a path: a weight follows a colon, art:1.0"),
        ("mine=0.5", "has a number for a path: a weight follows a colon, mine=PATH:0.5"),
        ("help=/nowhere/at/all:1", "/nowhere/at/all: no such folder"),
        ("help=no/where/here", "no/where/here: no such folder"),
    ],
)
def test_a_reward_that_cannot_be_read_is_refused_with_the_forms_there_are(text, reason):
    with pytest.raises(GenARMError, match=reason):
        parse_reward(text)


def test_two_rewards_need_two_names():
    with pytest.raises(GenARMError, match="names 'a' twice"):
        parse_rewards(["a=x/y", "b=x/y", "a=x/z:3"])


def test_paths_are_absolute_and_hub_ids_are_left_alone(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_path("model") == model_path("./model") == model_path("~/model") == str((tmp_path / "model").resolve())
    assert model_path("org/model") == "org/model"


def test_a_fingerprint_is_that_of_the_files_not_of_the_place(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SAMPLE", 4)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter.safetensors").write_bytes(b"0123456789")
        (tmp_path / name / "notes.md").write_text(name)
    (tmp_path / "b" / "odd.json").mkdir()
    assert fingerprint(str(tmp_path / "a")) == fingerprint(str(tmp_path / "b"))
    for other in (b"x123456789", b"012345678x", b"01234567890"):
        (tmp_path / "b" / "adapter.safetensors").write_bytes(other)
        assert fingerprint(str(tmp_path / "a")) != fingerprint(str(tmp_path / "b"))
    assert fingerprint("org/model") is None


def test_the_base_of_a_reward_model_is_chosen_by_its_name(tmp_path):
    found = parse_reward_bases(["a=own", "b=base", f"c={tmp_path}", "d=some-org/model"], ["a", "b", "c", "d"])
    assert found == {"a": "own", "b": "base", "c": str(tmp_path), "d": "some-org/model"}
    for texts, error, cause in (
        (["own"], InvalidArgumentError, "write NAME=own"),
        (["x=own"], InvalidArgumentError, "there is no such reward model: a"),
        (["a=own", "a=base"], InvalidArgumentError, "'a' twice"),
        (["a=/gone"], LoadingError, "no such folder"),
    ):
        with pytest.raises(error, match=cause):
            parse_reward_bases(texts, ["a"])
