"""`python -m genaf_hf.push FOLDER REPO_ID`, as published cards have it: `genaf-hf push`."""

from genaf_hf.cli.main import main

if __name__ == "__main__":
    main("push")
