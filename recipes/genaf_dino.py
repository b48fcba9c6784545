"""Hardens an encoder of DINO with Gen-AF.

    accelerate launch recipes/genaf_dino.py
    accelerate launch recipes/genaf_dino.py --model_name_or_path facebook/dino-vits16 \
        --dataset_name uoft-cs/cifar10 --output_dir hardened

A model that is named by flags is trained as encoder.yaml says; other flags win over it.
Without a model or a dataset it runs digits_dino.yaml: scikit-learn's digits, and a small ViT that is
distilled from them first and kept for the next run.
"""

from genaf_hf.cli.recipe import run_recipe
from genaf_hf.cli.settings_file import CONFIGS

if __name__ == "__main__":
    run_recipe("recipes/genaf_dino.py", CONFIGS / "digits_dino.yaml", CONFIGS / "encoder.yaml")
