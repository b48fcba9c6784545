"""Model cards: what reports and training records say, and cards that others wrote."""
