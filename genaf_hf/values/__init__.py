"""Numbers, names and texts as others give them, taken for what they are."""
