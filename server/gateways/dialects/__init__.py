"""Other systems' ways of speaking, as their documents say: each only translates (docs/dialects.md)."""
