"""Objectives: what a defence makes of clean and attacked logits, one a file."""
