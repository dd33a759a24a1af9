"""Rows on disk, whatever happened to their writer."""

import pytest

from nbquant.analysis.rows import RowFile

ROWS = {"a": {"x": 0.1, "y": 3}, "b": {"x": float("inf"), "said": "ü\n"}, "c": {}}


def write(path):
    file = RowFile(path)
    for key, row in ROWS.items():
        file.add(key, row)
    file.close()


def test_rows_come_back(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    write(path)
    file = RowFile(path)
    assert file.rows == ROWS
    file.close()


def test_killed_after_any_byte(tmp_path):
    """All whole lines count, and what is written next follows them."""
    write(tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    path = tmp_path / "part"
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        file = RowFile(path)
        whole = data[:size].count(b"\n")
        assert file.rows == dict(list(ROWS.items())[:whole])
        file.add("d", {"z": 1})
        file.close()
        again = RowFile(path)
        assert list(again.rows) == [*list(ROWS)[:whole], "d"]
        again.close()


@pytest.mark.parametrize("content", [b"hello\n", b"[1]\n", b'{"x": 1}\n', b"hello", b"\xff\n", b"[" * 9999 + b"\n"])
def test_another_file_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"line 1 of .* is none"):
        RowFile(path)
    assert path.read_bytes() == content
