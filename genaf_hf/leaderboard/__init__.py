"""A leaderboard of what the cards of models on the Hub say of their robustness, checked."""

from genaf_hf.leaderboard.check import check
from genaf_hf.leaderboard.collect import collect
from genaf_hf.leaderboard.entries import Entry, Leaderboard, LeftOut
from genaf_hf.leaderboard.page import check_folder, write

__all__ = ["Entry", "Leaderboard", "LeftOut", "check", "check_folder", "collect", "write"]
