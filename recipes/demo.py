"""Shows a page on which two models are attacked: `genaf-hf demo`, from a checkout.

    pip install -c constraints.txt '.[demo]' && python recipes/demo.py

As a Space of the Hub: this repository with `sdk: gradio` and `app_file: recipes/demo.py` in its README.md, `.[demo]` in
its requirements.txt, and the models' and the dataset's Hub ids in genaf_hf/cli/configs/demo_digits.yaml.
"""

from genaf_hf.cli.main import main

if __name__ == "__main__":
    main("demo")
