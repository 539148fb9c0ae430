"""`genarm evaluate compare`: many methods on the same prompts and base, and what their answers are like and cost."""
