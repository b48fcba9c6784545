"""With `torch_compile` the passes of the attacks are compiled as well as the loss, and train the same weights."""

import pytest
import torch
from train_tiny import tiny_model, tiny_trainer


@pytest.mark.slow(reason="compiles")
def test_compiled_attacks_train_the_same_weights(tmp_path):
    settings = {"images": 16, "max_steps": 3, "dtype": torch.float64, "defence": "pgd-at", "logging_strategy": "no"}
    backend = "aot_eager"  # all of compilation but for the code that is made, which takes a compiler half a minute
    weights, eager_passes = {}, {}
    for compiled in (False, True):
        model = tiny_model(torch.float64)
        block, passes = model.vit.layers[0].forward, []

        def told(*args, block=block, passes=passes, **kwargs):
            if not torch.compiler.is_compiling():
                passes.append(1)
            return block(*args, **kwargs)

        model.vit.layers[0].forward = told
        trainer = tiny_trainer(
            tmp_path / str(compiled), model=model, torch_compile_backend=backend if compiled else None, **settings
        )
        trainer.eval_dataset = None
        before = len(passes)
        trainer.adversarial_finetune()
        eager_passes[compiled] = len(passes) - before
        weights[compiled] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(weights[True], weights[False], rtol=0, atol=1e-9)
    # Two passes of the attack and one of the loss in each step, beside the look at a first row.
    assert eager_passes[False] == eager_passes[True] + 3 * 3
