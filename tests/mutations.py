"""Broken variants of functions, made by editing one place of their source."""

import inspect
import itertools
import linecache
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

Mutation = Callable[[pytest.MonkeyPatch], None]
_numbers = itertools.count()


def replaced(function: Any, value: Any) -> Mutation:
    """The function is `value` in every module of genarm_kernels that has it."""
    name = function.__name__

    def mutate(monkeypatch: pytest.MonkeyPatch) -> None:
        places = [m for key, m in sys.modules.items() if key.startswith("genarm_kernels")]
        places = [m for m in places if getattr(m, name, None) is function]
        assert places
        for module in places:
            monkeypatch.setattr(module, name, value)

    return mutate


def edited(function: Any, old: str, new: str, count: int = 1) -> Mutation:
    """The function with `old` replaced by `new` in its source, where it stands `count` times."""
    return lambda monkeypatch: replaced(function, rewritten(function, old, new, count))(monkeypatch)


def edited_method(owner: type, name: str, old: str, new: str) -> Mutation:
    """The same for a method of a class, with `old` in its source once."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, rewritten(getattr(owner, name), old, new, 1))


def rewritten(function: Any, old: str, new: str, count: int = 1) -> Any:
    """A function of the same name and module from an edited source."""
    plain = getattr(function, "fn", function)
    source = textwrap.dedent(inspect.getsource(plain))
    assert source.count(old) == count, f"{function.__name__} has {source.count(old)} of {old!r}: expected {count}"
    source = source.replace(old, new)
    file, own = f"<mutant {next(_numbers)}>", dict[str, Any]()
    # Triton reads a function's source again from here.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), plain.__globals__, own)
    return own[function.__name__]


def assert_killed(monkeypatch: pytest.MonkeyPatch, mutate: Mutation, check: Callable[[], None]) -> None:
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        check()


def proofs(mutants: dict[str, tuple[Mutation, Callable[[], None]]]) -> tuple[Callable[..., None], Callable[..., None]]:
    """Two tests: what is sound passes every check, and each mutant fails the one beside it."""
    checks = dict.fromkeys(check for _, check in mutants.values())

    @pytest.mark.parametrize("check", checks, ids=lambda check: check.__name__)
    def test_what_is_sound_passes(check: Callable[[], None]) -> None:
        check()

    @pytest.mark.parametrize(("mutate", "check"), mutants.values(), ids=mutants.keys())
    def test_a_mutant_is_killed_by_its_check(
        monkeypatch: pytest.MonkeyPatch, mutate: Mutation, check: Callable[[], None]
    ) -> None:
        assert_killed(monkeypatch, mutate, check)

    return test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check
