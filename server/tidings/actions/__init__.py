"""The actions, grouped by noun. The registry loads every module of this package."""
