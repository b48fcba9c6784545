"""The paper of the method, in BibTeX."""

GEN_AF = """@inproceedings{zhou2024genaf,
  title = {Securely Fine-tuning Pre-trained Encoders Against Adversarial Examples},
  author = {Zhou, Ziqi and Li, Minghui and Liu, Wei and Hu, Shengshan and Zhang, Yechao and Wan, Wei and Xue, Lulu and
            Zhang, Leo Yu and Yao, Dezhong and Jin, Hai},
  booktitle = {IEEE Symposium on Security and Privacy},
  year = {2024},
  url = {https://arxiv.org/abs/2403.10801}
}"""
