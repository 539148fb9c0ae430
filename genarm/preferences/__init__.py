"""Preference pairs, from a file to a batch of tokens, and what models make of them."""
