"""Hardens an encoder without labels: `genaf-hf harden-encoder`, from a checkout.

    accelerate launch recipes/harden_encoder.py
    accelerate launch recipes/harden_encoder.py --model_name_or_path facebook/dinov2-small \
        --dataset_name my/unlabelled-images --output_dir dinov2-small-hardened --push_to_hub

Without a model or a dataset it runs genaf_hf/cli/configs/digits_encoder.yaml.
"""

from genaf_hf.cli.main import main

if __name__ == "__main__":
    main("harden-encoder")
