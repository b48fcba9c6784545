"""TRADES (Zhang et al., ICML 2019, https://arxiv.org/abs/1901.08573)."""

from genaf_hf.attacks.norms import Norm
from genaf_hf.training.adversaries.divergence_pgd import DivergencePGD
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.objectives.trades import Trades
from genaf_hf.values.numbers import check_positive

CITATION = """@inproceedings{zhang2019trades,
  title = {Theoretically Principled Trade-off between Robustness and Accuracy},
  author = {Zhang, Hongyang and Yu, Yaodong and Jiao, Jiantao and Xing, Eric P. and El Ghaoui, Laurent and
            Jordan, Michael I.},
  booktitle = {International Conference on Machine Learning},
  year = {2019},
  url = {https://arxiv.org/abs/1901.08573}
}"""


@register_defence(title="TRADES (Zhang et al., ICML 2019)", citation=CITATION)
def trades(
    *, eps: float = 4 / 255, steps: int = 3, step_size: float | None = None, norm: Norm = "linf", beta: float = 6.0
) -> tuple[DivergencePGD, Trades]:
    """Cross-entropy on clean images, and that attacked ones are answered alike.

    The paper's adversary: eps 0.031, 10 steps of 0.007.

    Raises:
        UserError: when beta is no positive number.
    """
    check_positive("beta", beta, 6)
    return DivergencePGD(eps=eps, steps=steps, step_size=step_size, norm=norm), Trades(beta)
