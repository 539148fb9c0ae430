"""What was tried once and is kept so that it can be repeated: studies, and the making of the models that ship."""
