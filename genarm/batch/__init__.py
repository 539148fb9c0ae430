"""Runs over many prompts: rows in, whole lines out, and taken up again where they stopped."""

from ..errors import GenARMError


class RunError(GenARMError):
    """A run over many prompts that cannot start or go on: its input, its output, its settings or its memory."""
