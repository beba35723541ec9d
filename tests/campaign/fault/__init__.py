"""The areas of the campaign `faults`: each module has an `area` of checks, named after their promises."""
