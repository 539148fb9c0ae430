"""The rows and ids of a method's call that the models beside its base can read."""

from __future__ import annotations

from ..admission import admitted
from ..engine.batch import all_failed
from .call import Call, Readable


def admit(call: Call, *readables: Readable) -> None:
    """Fail the rows whose prompts these models cannot read, and keep the ids that one of them lacks from being drawn.

    Raises:
        GenARMError: every row failed.
    """
    models = [model for readable in readables for model in readable.models]
    call.request = admitted(call.request, models, call.decoder.tokenizer)
    call.errors = {**call.request.errors, **call.errors}
    call.rows = [row for row in call.rows if row.index not in call.errors]
    if not call.rows:
        raise all_failed(dict(sorted(call.errors.items())))
