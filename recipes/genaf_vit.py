"""Hardens a vision transformer with Gen-AF.

    accelerate launch recipes/genaf_vit.py
    accelerate launch recipes/genaf_vit.py recipes/configs/vit_base_cifar10.yaml --seed 1

Without a model or a dataset it runs recipes/configs/digits.yaml: scikit-learn's digits, and a small masked autoencoder
that is pre-trained on them first and kept for the next run.
"""

from pathlib import Path

from genaf_hf.recipe import run_recipe

if __name__ == "__main__":
    run_recipe("recipes/genaf_vit.py", Path(__file__).parent / "configs" / "digits.yaml")
