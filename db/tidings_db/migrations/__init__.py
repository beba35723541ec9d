"""The tables' history. `python -m tidings_db.migrations "what changes"` drafts the next step from the models."""
