"""These tests run the kernels in Triton's interpreter, which must be on before triton is imported."""

import pytest
import triton

ON = bool(triton.knobs.runtime.interpret)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if ON:
        return
    reason = "NOT RUN: the kernels need TRITON_INTERPRET=1 in the environment before Python starts; use `make test`"
    for item in items:
        if "tests/interpreter/" in item.path.as_posix():
            item.add_marker(pytest.mark.skip(reason=reason))
