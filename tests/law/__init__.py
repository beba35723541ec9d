"""The law: an old snapshot and the events since give the new snapshot, after any actions."""
