"""Runs over many prompts: rows in, whole lines out, and resumed where they stopped."""
