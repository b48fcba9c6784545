"""Hardens a vision transformer: `genaf-hf harden`, from a checkout.

    accelerate launch recipes/genaf_vit.py
    accelerate launch recipes/genaf_vit.py --model_name_or_path google/vit-base-patch16-224-in21k \
        --dataset_name uoft-cs/cifar10 --output_dir hardened

Without a model or a dataset it runs digits_vit.yaml, a model that is named is trained as encoder.yaml says, both of
genaf_hf/cli/configs.
"""

from genaf_hf.cli.main import main

if __name__ == "__main__":
    main("harden", default_config="digits_vit.yaml", family_config="encoder.yaml")
