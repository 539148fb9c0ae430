"""Every form of a data set gives the same rows; what is none is refused by name."""

import bz2
import gzip
import io
import json
import lzma
import sys
import zipfile

import pytest

from genarm.errors import InvalidArgumentError
from genarm.preferences.reading import conditions
from genarm.preferences.rows import content_hash, read_rows

ROWS = [{"chosen": "a é 🎨", "rejected": "b", "n": 1}, {"chosen": "c", "rejected": "d", "n": 2}]
LINES = "".join(json.dumps(row) + "\n\n" for row in ROWS)


def zipped(**files):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return held.getvalue()


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


def test_rows_are_the_same_however_a_file_is_packed_and_encoded(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, of the extra train, is not installed")
    plain, stream = LINES.encode(), pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(stream, "zstd") as packed:
        packed.write(plain)
    table, file, live = pyarrow.Table.from_pylist(ROWS), pyarrow.BufferOutputStream(), pyarrow.BufferOutputStream()
    for sink, make in ((file, pyarrow.ipc.new_file), (live, pyarrow.ipc.new_stream)):
        with make(sink, table.schema) as writer:
            writer.write_table(table)
    contents = {
        "rows.jsonl.zst": stream.getvalue().to_pybytes(),
        "rows.jsonl.xz": lzma.compress(plain),
        "rows.jsonl.bz2": bz2.compress(plain),
        "rows.jsonl": gzip.compress(plain),  # what a file is packed in shows in its bytes
        "rows.zip": zipped(**{"rows.jsonl": LINES, "__MACOSX/._rows.jsonl": "no"}),
        "utf16.jsonl": LINES.encode("utf-16"),
        "bom.jsonl": LINES.encode("utf-8-sig"),
        "rows.json": json.dumps(ROWS).encode("utf-16"),
        "rows.arrow": file.getvalue().to_pybytes(),
        "stream.arrow": live.getvalue().to_pybytes(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert read_rows(tmp_path / name) == ROWS, name
    texts = [{name: str(value) for name, value in row.items()} for row in ROWS]
    lines = [["chosen", "rejected", "n"], *(list(row.values()) for row in texts)]
    for name, comma in (("rows.csv", ","), ("rows.tsv", "\t")):
        (tmp_path / name).write_text("\n".join(comma.join(line) for line in lines), encoding="utf-8-sig")
        assert read_rows(tmp_path / name) == texts
    (tmp_path / "quoted.csv").write_text('a,b\n"x,\n""y""",\n')
    assert read_rows(tmp_path / "quoted.csv") == [{"a": 'x,\n"y"', "b": ""}]


def test_a_pattern_is_its_files_by_name_and_a_folder_its_shards(tmp_path, datasets, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "clone" / "data"
    folder.mkdir(parents=True)
    for place, row in enumerate(ROWS):
        datasets.Dataset.from_list([row]).to_parquet(folder / f"train-0000{place}-of-00002.parquet")
    datasets.Dataset.from_list(ROWS[1:]).to_parquet(folder / "test-00000-of-00001.parquet")
    assert read_rows(f"{folder}/train-*.parquet") == read_rows(folder.parent) == ROWS
    assert read_rows(f"{folder.parent}:test") == ROWS[1:]
    assert content_hash(f"{folder}/tr*") == content_hash(folder.parent)
    with pytest.raises(InvalidArgumentError, match="no file matches"):
        read_rows(f"{folder}/dev-*.parquet")
    with pytest.raises(InvalidArgumentError, match=r"cannot be read as a data set .*dev"):
        read_rows(f"{folder.parent}:dev")


def test_a_table_s_nulls_inside_a_value_are_no_part_of_it(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, of the extra train, is not installed")
    from pyarrow import parquet

    calls = [[{"name": "look", "arguments": {"city": "Rome"}}], [{"name": "add", "arguments": {"a": 1, "b": 2}}]]
    parquet.write_table(pyarrow.Table.from_pylist([{"calls": call} for call in calls]), tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet") == [{"calls": call} for call in calls]


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
        ("rows.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', r"rows.jsonl, line 2: not UTF-8 .* at byte 16"),
        ("rows.jsonl", b"\xff\xfea", "not UTF-16"),
        ("rows.jsonl.zst", b"\x28\xb5\x2f\xfdno", "zstd data is cut short or corrupt"),
        ("rows.jsonl.xz", lzma.compress(b'{"a": 1}')[:-9], "xz data is cut short or corrupt"),
        ("rows.csv", b"chosen,rejected\na,b\na,b,c\n", "line 3: not one value for each of the 2 columns"),
        ("rows.csv", b'chosen,rejected\na,"b\n', "not CSV"),
        ("rows.arrow", b"ARROW1 but not really", "cannot be read as Arrow"),
        ("rows.zip", zipped(a="1", b="2"), "holds 2 files: unpack it"),
        ("rows.xlsx", zipped(a="1"), r"\.xlsx files are not read: convert it, as python -c .*read_excel"),
        ("rows.tar.gz", gzip.compress(b"tar", mtime=0), r"\.tar files are not read"),
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
    with pytest.raises(InvalidArgumentError, match="save_to_disk did not write it: name a file"):
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
    calls.clear()
    assert read_rows("owner/pairs/part/a") == read_rows("owner/pairs:small:test") == read_rows("pairs:small:") == ROWS
    assert calls == [
        (("owner/pairs",), {"data_dir": "part/a", "split": "train"}),
        (("owner/pairs",), {"name": "small", "split": "test"}),
        (("pairs",), {"name": "small", "split": "train"}),
    ]
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
