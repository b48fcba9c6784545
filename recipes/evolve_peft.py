"""Evolves PEFT adapters for an encoder: `genaf-hf evolve`, from a checkout.

pip install -c constraints.txt '.[search]' && accelerate launch recipes/evolve_peft.py
"""

from genaf_hf.cli.main import main

if __name__ == "__main__":
    main("evolve")
