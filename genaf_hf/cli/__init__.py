"""Commands: their flags and files, how they end, and what all recipes run."""
