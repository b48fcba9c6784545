"""Builds a leaderboard of models on the Hub: `genaf-hf leaderboard`, from a checkout.

python recipes/leaderboard.py --filter genaf --output_dir leaderboard
"""

from genaf_hf.cli.main import main

if __name__ == "__main__":
    main("leaderboard")
