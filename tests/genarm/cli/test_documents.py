"""The page about the command line names every option of the commands that write text."""

from pathlib import Path

import pytest
import typer.main

from genarm.cli import app
from genarm.runs.rows import OWN_SETTINGS, WRITTEN

PAGE = Path(__file__).parents[3].joinpath("docs", "command-line.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["generate", "chat"])
def test_the_page_names_every_option(name):
    (command,) = (one for key, one in typer.main.get_command(app.app).commands.items() if key == name)
    options = [[*one.opts, *one.secondary_opts] for one in command.params if one.opts[0].startswith("-")]
    assert [names for names in options if not any(f"`{name}" in PAGE for name in names)] == []


def test_the_page_names_what_rows_may_hold():
    assert [name for name in (*OWN_SETTINGS, *WRITTEN) if f"`{name}`" not in PAGE] == []
