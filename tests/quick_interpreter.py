"""Triton's interpreter as it is, without work that it repeats.

A launch puts the interpreter's functions in triton.language's place and takes them out at its end. Every function that
a kernel calls puts them there once more, which changes nothing and takes a third of a launch's time; a tenth goes into
a table of all dtypes for each one that is looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


def hasten() -> None:
    """From here on, in this process, neither is done twice. An interpreter of another triton is left as it is."""
    if hasattr(interpreter, "_LangPatchScope"):
        interpreter._patch_lang = once_per_launch(interpreter._patch_lang)
        interpreter._get_np_dtype = looked_up_once(interpreter._get_np_dtype)


def once_per_launch(patch_language: Callable[[Any], Any]) -> Callable[[Any], Any]:
    there = set[str]()
    asked = cache(languages)

    @wraps(patch_language)
    def patched(fn: Any) -> Any:
        needed = asked(fn)
        if needed and needed <= there:
            return interpreter._LangPatchScope()
        scope = patch_language(fn)
        there.update(needed)
        restore = scope.restore

        def restored() -> None:
            there.clear()
            restore()

        scope.restore = restored
        return scope

    return patched


def languages(fn: Any) -> frozenset[str]:
    """Which of triton.language and its core a function's module has, whatever their names there."""
    return frozenset(value.__name__ for value in fn.__globals__.values() if value is tl or value is tl.core)


def looked_up_once(numpy_dtype: Callable[[Any], Any]) -> Callable[[Any], Any]:
    known = cache(numpy_dtype)

    @wraps(numpy_dtype)
    def look_up(dtype: Any) -> Any:
        scalar = dtype.scalar
        return numpy_dtype(dtype) if isinstance(scalar, tl.pointer_type) else known(scalar)

    return look_up
