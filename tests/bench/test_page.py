"""What commands write into pages, between markers."""

import pytest

from bench.page import part, stale, write


def test_a_part_is_replaced_and_the_rest_stays(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- a (1) -->\n\n| old \\1 |\n\n<!-- /a (1) -->\nbetween\n<!-- b -->\n<!-- /b -->\nafter\n"
    )
    parts = {"a (1)": "| new \\1 |\n", "b": "text"}
    assert stale(page, parts) == ["a (1)", "b"]
    for _ in range(2):
        write(page, parts)
        expected = (
            "before\n<!-- a (1) -->\n| new \\1 |\n<!-- /a (1) -->\nbetween\n<!-- b -->\ntext\n<!-- /b -->\nafter\n"
        )
        assert page.read_text() == expected
        assert stale(page, parts) == []
    write(page, {"b": ""})
    assert part(page.read_text(), "b") == ""


def test_a_page_without_the_markers_is_refused_and_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- a -->\n<!-- /a -->\n")
    with pytest.raises(ValueError, match="no <!-- other -->"):
        write(page, {"a": "text", "other": "text"})
    assert page.read_text() == "<!-- a -->\n<!-- /a -->\n"
