"""The areas of the campaign `attacks`: each module has an `area` of checks named after the promises they try."""
