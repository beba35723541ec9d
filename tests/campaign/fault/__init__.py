"""The areas of the campaign `faults`: each module has an `area` of checks named after the promises they try."""
