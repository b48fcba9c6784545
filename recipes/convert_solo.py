"""Makes a checkpoint of transformers of solo-learn's: `genaf-hf convert`, from a checkout.

python recipes/convert_solo.py --checkpoint byol-cifar10.ckpt --output_dir byol-resnet18-cifar10
"""

from genaf_hf.cli.main import main

if __name__ == "__main__":
    main("convert")
