import copy
import gc
from dataclasses import replace
from functools import partial

import pytest
import torch
from peft import PeftModel, load_peft_weights
from peft.tuners.tuners_utils import BaseTunerLayer
from test_adapter_genome import genome, moved
from train_tiny import PROCESSOR, tensors, tiny_model

from genaf_hf import GenAFTrainer, PixelModel, pgd
from genaf_hf.adapter_search import AdapterTrainer, Fitness, Genome, adapt, merged_model, merged_weights
from genaf_hf.attacks.registry import configured
from genaf_hf.errors import UserError
from genaf_hf.evaluation.answers import answer
from genaf_hf.evaluation.measurement import Rate
from genaf_hf.evaluation.threats import ImageThreat
from genaf_hf.training.adversaries.universal import Universal
from genaf_hf.training.global_batch import MicroBatch

pytestmark = pytest.mark.slow(reason="trains")

ATTACK = partial(pgd, eps=16 / 255, steps=3)


@pytest.fixture
def fitness(config):
    return Fitness(tiny_model(), PROCESSOR, tensors(24, 0, torch.float32), tensors(15, 1, torch.float32),
                   config(max_steps=3), ImageThreat("pgd", configured(ATTACK)))  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "dora", "oft", "ia3"])
def test_the_adversary_on_merged_weights_crafts_the_same_images(method, config, tmp_path):
    encoder = tiny_model(torch.float64)
    model = moved(adapt(encoder, genome(method).peft_config(encoder)))
    rows = tensors(12, 0, torch.float64)
    batch = {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in ("pixel_values", "labels")}
    crafted = [
        kind(model=model, args=config(steps=5, eps=0.1), processing_class=PROCESSOR).craft(model, batch, MicroBatch())
        for kind in (GenAFTrainer, AdapterTrainer)
    ]
    torch.testing.assert_close(*crafted, rtol=0, atol=1e-6)
    assert (crafted[0] - batch["pixel_values"]).abs().amax() > 0.1


def test_the_bank_is_crafted_on_the_public_encoder_whatever_adapters_learned_before(config, tmp_path, monkeypatch):
    begun, begin = [], Universal.begin

    def remembered(self, model, *others):
        begun.append(model.model)
        begin(self, model, *others)

    monkeypatch.setattr(Universal, "begin", remembered)
    bank = {"live": 2, "class_share": 0, "bank": ["l4a"], "bank_steps": 2, "patch_share": 0}
    training = config(max_steps=2, defence="universal", defence_settings=bank, steps=None)
    data = tensors(24, 0, torch.float32), tensors(15, 1, torch.float32)
    fitness = Fitness(tiny_model(), PROCESSOR, *data, training, ImageThreat("pgd", configured(ATTACK)))
    fitness(replace(genome("lora"), steps=None), tmp_path / "first")
    fitness(replace(genome("lora"), steps=None), parents={tmp_path / "first": 1.0})
    assert [model is fitness.encoder for model in begun] == [True, True]


def test_nothing_is_left_merged_when_an_attack_fails():
    encoder = tiny_model()
    model = moved(adapt(encoder, genome("lora").peft_config(encoder)))
    images = torch.rand(2, 3, 8, 8)
    before = model(pixel_values=images).logits
    with pytest.raises(RuntimeError, match="on the way"), merged_weights(model):
        raise RuntimeError("on the way")
    torch.testing.assert_close(model(pixel_values=images).logits, before, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["lora", "dora", "oft", "ia3", "loha"])
def test_nothing_is_left_merged_when_a_merge_fails_at_the_second_layer(method, monkeypatch):
    encoder = tiny_model()
    before = copy.deepcopy(encoder.state_dict())
    model = moved(adapt(encoder, genome(method).peft_config(encoder)))
    images = torch.rand(2, 3, 8, 8)
    logits = model(pixel_values=images).logits
    first, second = (module for module in model.modules() if isinstance(module, BaseTunerLayer))

    def out_of_memory(*args, **kwargs):
        assert first.merged
        second.get_base_layer().weight.data += 1
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(second, "merge", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError), merged_weights(model):
        pass
    assert not first.merged
    assert not second.merged
    torch.testing.assert_close(dict(encoder.state_dict()), dict(before), rtol=0, atol=0)
    torch.testing.assert_close(model(pixel_values=images).logits, logits, rtol=0, atol=0)


def test_trials_leave_the_encoder_and_the_memory_as_they_were(fitness):
    before = copy.deepcopy(fitness.encoder.state_dict())
    counts = []
    for method in ("lora", "oft", "lora", "dora", "lora"):
        fitness(genome(method))
        gc.collect()
        alive = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
        counts.append((len(alive), sum(each.numel() for each in alive), len(list(fitness.encoder.parameters()))))
    assert len(set(counts[1:])) == 1
    torch.testing.assert_close(dict(fitness.encoder.state_dict()), dict(before), rtol=0, atol=0)


def test_a_score_is_that_of_the_saved_adapter(fitness, tmp_path):
    own = genome("lora")
    score = fitness(own, tmp_path)
    assert Genome.from_json((tmp_path / "genome.json").read_text()) == own
    loaded = PeftModel.from_pretrained(copy.deepcopy(fitness.encoder), tmp_path)
    assert score.parameters == sum(each.numel() for each in adapt(fitness.encoder, own.peft_config(fitness.encoder))
                                   .parameters() if each.requires_grad)  # fmt: skip
    for model in (loaded, merged_model(fitness.encoder, tmp_path)):
        found = [
            answer(PixelModel(model.eval(), PROCESSOR), fitness.validation, attack, seed=fitness.config.seed)
            for attack in (None, fitness.threat.on("genome"))
        ]
        right = [sum(a == b for a, b in zip(each.predictions, each.labels, strict=True)) for each in found]
        assert [Rate(number, 15) for number in right] == [score.clean, score.robust]


def test_training_follows_the_genome_and_the_budget(fitness, tmp_path):
    config = fitness.training_of(genome("lora"))
    assert (config.learning_rate, config.head_learning_rate, config.steps) == (1e-3, 2e-3, 2)
    assert config.eps == pytest.approx(fitness.config.eps / 2)
    assert config.step_size == pytest.approx(2.5 * config.eps / 2)
    assert config.max_steps == 3
    fitness.config.step_size /= 2
    halved = fitness.training_of(genome("lora"))
    assert halved.step_size == config.step_size / 2
    fitness(genome("lora"), tmp_path)
    weights = PeftModel.from_pretrained(copy.deepcopy(fitness.encoder), tmp_path).state_dict()
    assert any(value.any() for name, value in weights.items() if "lora_B" in name)


def test_the_same_genome_has_the_same_score(fitness):
    first, second = fitness(genome("rslora")), fitness(genome("rslora"))
    assert (first.clean, first.robust, first.parameters) == (second.clean, second.robust, second.parameters)


def test_a_trial_sees_the_images_in_an_order_of_its_own(fitness, tmp_path):
    heads = []
    for name, number in (("first", 0), ("again", 0), ("second", 1)):
        fitness(genome("head"), tmp_path / name, number=number)
        heads.append(load_peft_weights(str(tmp_path / name), device="cpu")["base_model.model.classifier.weight"])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_training_that_diverges_is_an_error(fitness):
    with pytest.raises(UserError, match="The loss is not finite"):
        fitness(genome("lora", learning_rate=1e30))
