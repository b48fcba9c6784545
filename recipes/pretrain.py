"""Trains a public encoder from scratch: `genaf-hf pretrain`, from a checkout.

accelerate launch recipes/pretrain.py --method dino
"""

from genaf_hf.cli.main import main

if __name__ == "__main__":
    main("pretrain")
