"""Hardens an encoder of DINO: `genaf-hf harden`, from a checkout.

    accelerate launch recipes/genaf_dino.py
    accelerate launch recipes/genaf_dino.py --model_name_or_path facebook/dino-vits16 \
        --dataset_name uoft-cs/cifar10 --output_dir hardened

Without a model or a dataset it runs digits_dino.yaml, a model that is named is trained as encoder.yaml says, both of
genaf_hf/cli/configs.
"""

from genaf_hf.cli.main import main

if __name__ == "__main__":
    main("harden", default_config="digits_dino.yaml", family_config="encoder.yaml")
