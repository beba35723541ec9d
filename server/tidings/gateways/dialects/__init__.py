"""The documented protocols of other systems. Each dialect only translates (docs/dialects.md)."""
