"""Gen-AF (Zhou et al., IEEE S&P 2024, https://arxiv.org/abs/2403.10801)."""

from genaf_hf.attacks.norms import Norm
from genaf_hf.training.adversaries.pgd import PGD
from genaf_hf.training.defences.registry import register_defence
from genaf_hf.training.objectives.genetic import Genetic

CITATION = """@inproceedings{zhou2024genaf,
  title = {Securely Fine-tuning Pre-trained Encoders Against Adversarial Examples},
  author = {Zhou, Ziqi and Li, Minghui and Liu, Wei and Hu, Shengshan and Zhang, Yechao and Wan, Wei and Xue, Lulu and
            Zhang, Leo Yu and Yao, Dezhong and Jin, Hai},
  booktitle = {IEEE Symposium on Security and Privacy},
  year = {2024},
  url = {https://arxiv.org/abs/2403.10801}
}"""


@register_defence(title="Gen-AF (Zhou et al., IEEE S&P 2024)", citation=CITATION, adapts=True)
def gen_af(
    *,
    eps: float = 4 / 255,
    steps: int = 3,
    step_size: float | None = None,
    norm: Norm = "linf",
    random_start: bool = True,
    genetic_weight: float = 200.0,
    genetic_share: float = 0.2,
    clean_share: float = 0.5,
) -> tuple[PGD, Genetic]:
    """The paper's: PGD, cross-entropy and the genetic regularization, then stage 2.

    The paper's own settings are eps 0.03, 10 steps of 0.007 without a random start, a weight of 20 on a sum over 256
    images, no bound on its share and no clean images.
    """
    adversary = PGD(eps=eps, steps=steps, step_size=step_size, norm=norm, random_start=random_start)
    return adversary, Genetic(clean_share, genetic_weight, genetic_share)
