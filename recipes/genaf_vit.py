"""Hardens a vision transformer with Gen-AF.

    accelerate launch recipes/genaf_vit.py
    accelerate launch recipes/genaf_vit.py --model_name_or_path google/vit-base-patch16-224-in21k \
        --dataset_name uoft-cs/cifar10 --output_dir hardened

A model that is named by flags is trained as encoder.yaml says; other flags win over it.
Without a model or a dataset it runs digits_vit.yaml: scikit-learn's digits, and a small ViT that is
trained on their labels first and kept for the next run.
"""

from genaf_hf.cli.recipe import run_recipe
from genaf_hf.cli.settings_file import CONFIGS

if __name__ == "__main__":
    run_recipe("recipes/genaf_vit.py", CONFIGS / "digits_vit.yaml", CONFIGS / "encoder.yaml")
