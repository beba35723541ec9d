"""The law: an old snapshot and the events since make the new snapshot, whatever was done in between."""
