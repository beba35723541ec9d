"""The tables' history. `python -m db.migrations "what changes"` drafts the next step from the models."""
