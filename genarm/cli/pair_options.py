"""How a command line says what preference data leaves open; the commands that read pairs share these options."""

from __future__ import annotations

from typing import Annotated

import typer

Where = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Only the rows with this value; repeatable.")
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="NAME=COLUMN",
        help="Read a column under another name (chosen=answer_a), or pass it by (system=); repeatable.",
    ),
]
PromptColumn = Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of the prompts.")]
PromptTemplate = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Prompts in text, written from columns in braces: 'Human: {prompt}\\n\\nAssistant: '.",
    ),
]
AsChat = Annotated[
    bool, typer.Option("--chat", help="Read prompts and responses in text as turns of the base's chat template.")
]
ResponseMarker = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="What stands before a response in rows without a prompt of their own.",
        show_default="what is usual, as in '\\n\\nAssistant:'",
    ),
]
Preference = Annotated[
    str | None,
    typer.Option(metavar="better|safer", help="Which label says what is preferred, where rows have both."),
]
SkipBadRows = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Leave rows that are no pairs out, and say which, instead of stopping.")
]
