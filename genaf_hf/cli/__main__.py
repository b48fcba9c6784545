"""`python -m genaf_hf.cli`, and `accelerate launch -m genaf_hf.cli` for several processes."""

from genaf_hf.cli.main import main

if __name__ == "__main__":
    main()
