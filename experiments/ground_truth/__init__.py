"""Methods on problems where the optimal policy is known exactly. docs/ground-truth.md says what came out."""
