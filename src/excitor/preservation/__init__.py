"""Losses that hold a model to its base while it learns, for any PEFT method; docs/preservation.md describes them."""
