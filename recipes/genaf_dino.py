"""Hardens an encoder of DINO with Gen-AF.

    accelerate launch recipes/genaf_dino.py
    accelerate launch recipes/genaf_dino.py recipes/configs/dino_small_paper.yaml --seed 1

Without a model or a dataset it runs recipes/configs/digits_dino.yaml: scikit-learn's digits, and a small ViT that is
distilled from them first and kept for the next run.
"""

from pathlib import Path

from genaf_hf.recipe import run_recipe

if __name__ == "__main__":
    run_recipe("recipes/genaf_dino.py", Path(__file__).parent / "configs" / "digits_dino.yaml")
