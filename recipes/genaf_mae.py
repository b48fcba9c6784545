"""Hardens a masked autoencoder's encoder with Gen-AF.

    accelerate launch recipes/genaf_mae.py
    accelerate launch recipes/genaf_mae.py --model_name_or_path facebook/vit-mae-base \
        --dataset_name uoft-cs/cifar10 --output_dir hardened

A model that is named by flags is trained as mae.yaml says; other flags win over it.
Without a model or a dataset it runs digits_mae.yaml: scikit-learn's digits, and a small masked
autoencoder that is trained on them first and kept for the next run.
"""

from genaf_hf.cli.recipe import run_recipe
from genaf_hf.cli.settings_file import CONFIGS

if __name__ == "__main__":
    run_recipe("recipes/genaf_mae.py", CONFIGS / "digits_mae.yaml", CONFIGS / "mae.yaml")
