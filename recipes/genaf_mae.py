"""Hardens a masked autoencoder's encoder: `genaf-hf harden`, from a checkout.

    accelerate launch recipes/genaf_mae.py
    accelerate launch recipes/genaf_mae.py --model_name_or_path facebook/vit-mae-base \
        --dataset_name uoft-cs/cifar10 --output_dir hardened

Without a model or a dataset it runs digits_mae.yaml, a model that is named is trained as mae.yaml says, both of
genaf_hf/cli/configs.
"""

from genaf_hf.cli.main import main

if __name__ == "__main__":
    main("harden", default_config="digits_mae.yaml", family_config="mae.yaml")
