"""What do particles buy, and what does a larger guidance weight buy instead? docs/particles.md has the answer."""
