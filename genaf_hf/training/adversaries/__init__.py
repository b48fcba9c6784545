"""Adversaries: who crafts the images that a defence trains on, one a file."""
