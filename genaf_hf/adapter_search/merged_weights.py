"""Adapters merged into the frozen weights for as long as an attack looks only at the input."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.training.global_batch import MicroBatch
from genaf_hf.training.trainer import GenAFTrainer


@contextmanager
def merged_weights(model: PeftModel) -> Iterator[None]:
    """Computes with the adapters merged, which saves their own forward and backward passes.

    The frozen weights are back to the bit afterwards, whatever fails on the way: adapters merge into copies of them,
    because undoing a merge by arithmetic drifts. Gradients of the input are those of the unmerged model; of adapters
    there are none meanwhile.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    frozen = [(parameter, parameter.data) for layer in layers for parameter in layer.get_base_layer().parameters()]
    try:
        for parameter, values in frozen:
            parameter.data = values.clone()
        with torch.no_grad():
            model.merge_adapter()
        yield
    finally:
        for parameter, values in frozen:
            parameter.data = values
        # Not unmerge_adapter(), which calculates back what is thrown away, and can fail where a merge was interrupted.
        for layer in layers:
            layer.merged_adapters = []


class AdapterTrainer(GenAFTrainer):
    """`GenAFTrainer` of a `PeftModel`, whose adversary attacks the merged weights.

    Args:
        public: the encoder without adapters, on which the adversary begins; default the model as it is given, whose
            adapters may have been trained before.
        others: as for `GenAFTrainer`.
    """

    def __init__(self, *others, public: PixelModel | None = None, **kwargs):
        super().__init__(*others, **kwargs)
        self.public = public

    def begun_on(self) -> PixelModel:
        return self.public or super().begun_on()

    def craft(self, model, inputs: dict, micro_batch: MicroBatch, stays_clean: Sequence[bool] = ()) -> Tensor:
        with merged_weights(self.accelerator.unwrap_model(model, keep_torch_compile=False)):
            return super().craft(model, inputs, micro_batch, stays_clean)
