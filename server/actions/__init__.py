"""The actions, grouped by noun. A module put here is found by the registry."""
