"""Every form of a data set gives the same rows; what is none is refused by name."""

import gzip
import json
import sys

import pytest

from genarm.errors import InvalidArgumentError
from genarm.preferences.reading import conditions
from genarm.preferences.rows import content_hash, read_rows

ROWS = [{"chosen": "a é 🎨", "rejected": "b", "n": 1}, {"chosen": "c", "rejected": "d", "n": 2}]
LINES = "".join(json.dumps(row) + "\n\n" for row in ROWS)


@pytest.fixture
def datasets():
    found = pytest.importorskip("datasets", reason="datasets, of the extra train, is not installed")
    found.disable_progress_bars()
    return found


def test_rows_are_the_same_plain_gzipped_as_a_list_and_as_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow, of the extra train, is not installed")
    import pyarrow

    (tmp_path / "rows.jsonl").write_text(LINES, encoding="utf-8")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    (tmp_path / "rows.json").write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    (tmp_path / "lines.json").write_text(LINES, encoding="utf-8")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    names = ("rows.jsonl", "rows.jsonl.gz", "rows.json", "lines.json", "rows.parquet")
    for name in names:
        assert read_rows(tmp_path / name) == ROWS, name
    assert len({content_hash(tmp_path / name) for name in names}) == 1
    (tmp_path / "one.json").write_text(json.dumps(ROWS[0]))
    assert read_rows(tmp_path / "one.json") == ROWS[:1]


def test_the_hash_is_that_of_the_content_and_its_order(tmp_path):
    path = tmp_path / "rows.jsonl"
    hashes = []
    for text in (
        '{"a": 1, "b": "é"}\n{}',
        '{"b":"\\u00e9",   "a":1}\n{}',
        '{"a": 1, "b": "e"}\n{}',
        '{}\n{"a": 1, "b": "é"}',
    ):
        path.write_text(text, encoding="utf-8")
        hashes.append(content_hash(path))
    assert hashes[0] == hashes[1] and len(hashes[0]) == 64 and len(set(hashes)) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b'{"chosen": 1}\n{"chosen": \n', "line 2: not JSON"),
        ("rows.jsonl", b'{"chosen": 1}\n[1]\n', "row 2: a list, not an object"),
        ("rows.jsonl", b"\xff\xfe", "not UTF-8"),
        ("rows.jsonl.gz", gzip.compress(b'{"a": 1}', mtime=0)[:-4], "cut short or corrupt"),
        ("rows.json", b"[1, 2", "not JSON"),
        ("rows.json", b'{"a":\n 1}', "not JSON|write one list"),
        ("rows.json", b'"text"', "holds a str"),
        ("rows.parquet", b"PAR1 but not really", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_holds_no_rows_is_refused_by_name_and_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        read_rows(tmp_path / name)
    assert name in str(caught.value)


def test_neither_a_missing_file_nor_another_folder_is_taken_for_a_data_set(tmp_path):
    for name in ("missing.jsonl", "no/such/rows.json", "/no/such/folder", "a b"):
        with pytest.raises(InvalidArgumentError, match="no such file"):
            read_rows(name)
    with pytest.raises(InvalidArgumentError, match="save_to_disk did not write"):
        read_rows(tmp_path)


def test_a_saved_data_set_is_read_with_its_splits(tmp_path, datasets):
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": whole, "test": whole.select([1])}).save_to_disk(tmp_path / "split")
    assert read_rows(tmp_path / "one") == read_rows(tmp_path / "split") == ROWS
    assert read_rows(f"{tmp_path}/split:test") == ROWS[1:]
    for name, message in (("split:dev", "name one of train, test"), ("one:test", "has no splits")):
        with pytest.raises(InvalidArgumentError, match=message):
            read_rows(f"{tmp_path}/{name}")


def test_a_name_is_loaded_with_its_split_and_without_its_code(monkeypatch, datasets):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        if kwargs["split"] == "offline":
            raise ConnectionError("offline")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_rows("owner/pairs") == read_rows("owner/pairs:test[:10%]") == ROWS
    assert calls == [(("owner/pairs",), {"split": "train"}), (("owner/pairs",), {"split": "test[:10%]"})]
    with pytest.raises(InvalidArgumentError, match=r"no file owner/pairs:offline, and no data set .*offline"):
        read_rows("owner/pairs:offline")


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").touch()
    monkeypatch.chdir(tmp_path)
    for module, name in (("pyarrow", "rows.parquet"), ("datasets", "owner/pairs"), ("datasets", "saved")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InvalidArgumentError, match=r"genarm\[train\]"):
            read_rows(name)


def test_a_condition_is_split_at_its_first_equals_sign():
    assert conditions(["objective=art", "note=a=b", "split="]) == {"objective": "art", "note": "a=b", "split": ""}
    for texts, message in (
        (["objective"], "write COLUMN=VALUE"),
        (["=art"], "write COLUMN"),
        (["a=1", "a=2"], "'a' twice"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            conditions(texts)
