"""Does a small reward model guide a large base as well as a large one does? docs/weak-to-strong.md has the answer."""
