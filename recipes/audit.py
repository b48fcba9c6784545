"""Audits an image classifier: `genaf-hf audit`, from a checkout.

python recipes/audit.py --model_name_or_path user/model --dataset_name uoft-cs/cifar10
"""

from genaf_hf.cli.main import main

if __name__ == "__main__":
    main("audit")
