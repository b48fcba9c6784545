"""Hardens a masked autoencoder's encoder with Gen-AF.

    accelerate launch recipes/genaf_mae.py
    accelerate launch recipes/genaf_mae.py recipes/configs/mae_base_cifar10.yaml --seed 1

Without a model or a dataset it runs recipes/configs/digits_mae.yaml: scikit-learn's digits, and a small masked
autoencoder that is trained on them first and kept for the next run.
"""

from pathlib import Path

from genaf_hf.recipe import run_recipe

if __name__ == "__main__":
    run_recipe("recipes/genaf_mae.py", Path(__file__).parent / "configs" / "digits_mae.yaml")
