"""A push and a pull on the real Hub, in a private repository that is deleted afterwards."""

import os
import sys
import uuid

import pytest

TOKEN, NAMESPACE = "GENAF_HF_HUB_TOKEN", "GENAF_HF_HUB_NAMESPACE"

STRANGER = """
import sys
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

repo_id, folder = sys.argv[1:]
images = torch.rand(4, 3, 8, 8)

def logits(source):
    inputs = AutoImageProcessor.from_pretrained(source)(images, return_tensors="pt", do_rescale=False)
    return AutoModelForImageClassification.from_pretrained(source)(**inputs).logits

assert torch.equal(logits(repo_id), logits(folder))
assert "genaf_hf" not in sys.modules
"""
DELETE = "import sys; from huggingface_hub import HfApi; HfApi().delete_repo(sys.argv[1], missing_ok=True)"


@pytest.mark.skipif(
    not (os.environ.get(TOKEN) and os.environ.get(NAMESPACE)),
    reason=f"pushes to the real Hub where {TOKEN}, that may write, and {NAMESPACE}, a user or an organization, are set",
)
def test_what_is_pushed_to_the_real_hub_is_what_a_stranger_loads(processes, vit, tmp_path):
    model, processor = vit
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "optimizer.pt").write_text("not to be pushed")
    repo_id = f"{os.environ[NAMESPACE]}/genaf-hf-test-{uuid.uuid4().hex}"
    inherited = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment = {**inherited, "HF_TOKEN": os.environ[TOKEN], "HF_HOME": str(tmp_path / "home")}

    def run(*command: str) -> None:
        done = processes.run([sys.executable, *command], env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert os.environ[TOKEN] not in done.stdout + done.stderr

    try:
        run("-m", "genaf_hf.cli", "push", "model", repo_id, "--private")
        run("-m", "genaf_hf.cli", "push", "model", repo_id, "--private")
        run("-c", STRANGER, repo_id, "model")
    finally:
        run("-c", DELETE, repo_id)
