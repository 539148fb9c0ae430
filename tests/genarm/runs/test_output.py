"""Outputs: whole lines only, one per prompt, and never those of another run."""

import json
import os
from pathlib import Path

import pytest

from genarm.errors import RunError
from genarm.runs.output import OutputFile

IDS = [1, 2, "three"]
SETTINGS = {"seed": 0, "weights": {"art": 1.0}}


def row(row_id, reason="eos"):
    return {"id": row_id, "text": "zwölf\n", "finish_reason": reason}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.jsonl"


def opened(path, overwrite=False, **changes):
    """An output that was inspected and begun."""
    output = OutputFile(path, {**SETTINGS, **changes}, overwrite)
    try:
        output.inspect(IDS)
        output.begin()
    except BaseException:
        output.close()
        raise
    return output


def written(path, *rows):
    """Write an output of these rows; its bytes."""
    output = opened(path)
    for item in rows:
        output.write(item)
    output.sync()
    output.close()
    return path.read_bytes()


def names(path):
    return sorted(file.name for file in path.parent.iterdir())


def test_nothing_is_created_before_the_run_begins(path):
    output = OutputFile(path, SETTINGS)
    output.inspect(IDS)
    assert names(path) == []
    output.begin()
    assert names(path) == ["out.jsonl", "out.jsonl.meta.json"]
    assert json.loads(output.sidecar.read_text())["settings"] == SETTINGS
    with pytest.raises(ValueError):  # rows are strict JSON
        output.write({**row(1), "sum": float("nan")})
    output.close()
    assert path.read_bytes() == b""
    output.sidecar.unlink()
    opened(path).close()  # an empty file is no output yet
    assert names(path) == ["out.jsonl", "out.jsonl.meta.json"]


def test_finished_rows_are_kept_with_whether_they_failed(path):
    before = written(path, row(1), row("three", "error"))
    output = opened(path)
    assert output.finished == {1: False, "three": True}
    output.write(row(2))
    output.close()
    assert path.read_bytes().startswith(before)
    assert [json.loads(line)["id"] for line in path.read_bytes().splitlines()] == [1, "three", 2]


def test_failed_rows_that_are_tried_again_are_taken_out_when_the_run_begins(path):
    before = written(path, row(1, "error"), row(2), row("three", "error"))
    output = OutputFile(path, SETTINGS)
    output.inspect(IDS, retry_failed=True)
    assert output.finished == {2: False} and path.read_bytes() == before
    output.begin()
    assert path.read_bytes() == before.splitlines(keepends=True)[1]
    with pytest.raises(RunError, match="another genarm is writing to it"):
        opened(path)
    output.write(row("three"))
    output.write(row(1))
    output.arrange(IDS)
    output.close()
    assert path.read_bytes() == b"".join(json.dumps(row(key), ensure_ascii=False).encode() + b"\n" for key in IDS)
    assert names(path) == ["out.jsonl", "out.jsonl.meta.json"]


def test_rows_in_order_are_not_written_again_and_rows_that_cannot_be_are_kept(path, monkeypatch):
    before = written(path, row(2), row(1))
    output = opened(path)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    output.arrange([2, 1])
    with pytest.raises(RunError, match=r"No space left on device.*its rows are as they were"):
        output.arrange([1, 2])
    output.close()
    assert path.read_bytes() == before and names(path) == ["out.jsonl", "out.jsonl.meta.json"]


def test_samples_of_one_prompt_are_rows_of_their_own(path):
    output = OutputFile(path, SETTINGS)
    keys = [("a", 1), ("a", 2)]
    output.inspect(keys)
    output.begin()
    for _, sample in keys:
        output.write({"id": "a", "sample": sample, "finish_reason": "eos"})
    output.close()
    again = OutputFile(path, SETTINGS)
    again.inspect(keys)
    again.close()
    assert again.finished == {("a", 1): False, ("a", 2): False}


@pytest.mark.parametrize(
    "tail", [b'{"id": 2, "text": "zw\xc3', b'{"id": 2, "finish_reason": "eos"}', b"\0" * 50, b"\n", b"{}\n"]
)
def test_a_torn_last_line_is_cut_off(path, tail):
    whole = written(path, row(1))
    for rows, finished in ((whole, {1: False}), (b"", {})):
        path.write_bytes(rows + tail)
        output = opened(path)
        assert output.finished == finished and path.read_bytes() == rows
        output.close()


@pytest.mark.parametrize("line", [b"junk\n", json.dumps(row(7)).encode() + b"\n", json.dumps(row(1)).encode() + b"\n"])
def test_a_line_amid_the_rows_that_is_none_of_this_run_is_refused_and_kept(path, line):
    whole = written(path, row(1), row(2)).splitlines(keepends=True)
    path.write_bytes(whole[0] + line + whole[1])
    with pytest.raises(RunError, match="line 2 is not a row of this run, or repeats one: pass --overwrite"):
        opened(path)
    assert path.read_bytes() == whole[0] + line + whole[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": {"art": 2.0}}, "weights: {'art': 1.0} then, {'art': 2.0} now"),
        ({"new": True}, "new: None then, True now"),
        ({"seed": "sha256:1"}, "seed has changed"),
    ],
)
def test_other_settings_are_refused_by_name_unless_overwritten(path, changes, words):
    before = written(path, row(1))
    with pytest.raises(RunError) as caught:
        opened(path, **changes)
    assert f"({words}): pass --overwrite" in str(caught.value)
    assert path.read_bytes() == before
    output = opened(path, overwrite=True, **changes)
    assert path.read_bytes() == b"" and json.loads(output.sidecar.read_text())["settings"] == SETTINGS | changes
    output.close()


@pytest.mark.parametrize("sidecar", [None, "", "[]", '{"settings": 3}', "{}"])
def test_rows_of_unknown_settings_are_refused_unless_overwritten(path, sidecar):
    before = written(path, row(1))
    beside = path.with_name("out.jsonl.meta.json")
    beside.unlink() if sidecar is None else beside.write_text(sidecar)
    with pytest.raises(RunError, match="pass --overwrite"):
        opened(path)
    assert path.read_bytes() == before
    opened(path, overwrite=True).close()
    assert path.read_bytes() == b""


def test_a_second_process_is_kept_off_whether_the_file_was_there_before_or_not(path):
    late = OutputFile(path, SETTINGS)
    late.inspect(IDS)
    first = opened(path)
    with pytest.raises(RunError, match="was made by another process meanwhile"):
        late.begin()
    for overwrite in (False, True):
        with pytest.raises(RunError, match="another genarm is writing to it"):
            opened(path, overwrite)
    first.write(row(1))
    first.close()
    assert opened(path).finished == {1: False}


def test_a_place_that_cannot_hold_an_output_is_refused(path, monkeypatch):
    link = path.with_name("link.jsonl")
    link.symlink_to(path.with_name("gone.jsonl"))
    for place, reason in (
        (path.parent, "is a directory"),
        (path.parent / "no" / "out.jsonl", "there is no directory"),
        (Path("/dev/null"), "is not a regular file"),
        (link, "links to a file that is not there"),
        (Path("/proc/out.jsonl"), r"/proc/out.jsonl.*cannot be written"),
    ):
        with pytest.raises(RunError, match=reason):
            opened(place)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(RunError, match="cannot be written to: choose another --output"):
        opened(path)


def test_an_output_whose_sidecar_cannot_be_written_leaves_nothing(path):
    beside = path.with_name("out.jsonl.meta.json")
    beside.mkdir()
    with pytest.raises(RunError, match=r"meta\.json: cannot be written"):
        opened(path)
    assert names(path) == [beside.name]


def test_a_row_is_one_write_and_a_short_one_is_taken_back(path, monkeypatch):
    output = opened(path)
    output.write(row(1))
    whole = path.read_bytes()
    real, sizes = os.write, []

    def short(descriptor, data):
        sizes.append(len(data))
        return real(descriptor, data[:5])

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    for write, words in ((short, "the disk is full"), (full, "No space left on device")):
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(RunError, match=words):
            output.write(row(2))
        assert len(sizes) == 1 and path.read_bytes() == whole and 2 not in output.finished
    output.close()


def test_a_link_stays_a_link_when_its_file_is_rewritten(path):
    target = path.with_name("target.jsonl")
    written(target, row(2), row(1))
    target.with_name("target.jsonl.meta.json").rename(path.with_name("out.jsonl.meta.json"))
    path.symlink_to(target)
    output = opened(path)
    output.arrange(IDS)
    output.close()
    assert path.is_symlink() and [json.loads(line)["id"] for line in target.read_text().splitlines()] == [1, 2]
