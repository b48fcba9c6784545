"""The work behind recipes/demo.py."""
