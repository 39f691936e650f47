"""A fair fight: methods on the same data, in the same order, for the same steps, over seeds (docs/compare.md)."""
