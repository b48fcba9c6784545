"""The papers of the method and of the attacks, in BibTeX."""

GEN_AF = """@inproceedings{zhou2024genaf,
  title = {Securely Fine-tuning Pre-trained Encoders Against Adversarial Examples},
  author = {Zhou, Ziqi and Li, Minghui and Liu, Wei and Hu, Shengshan and Zhang, Yechao and Wan, Wei and Xue, Lulu and
            Zhang, Leo Yu and Yao, Dezhong and Jin, Hai},
  booktitle = {IEEE Symposium on Security and Privacy},
  year = {2024},
  url = {https://arxiv.org/abs/2403.10801}
}"""
PAP = """@inproceedings{ban2022pap,
  title = {Pre-trained Adversarial Perturbations},
  author = {Ban, Yuanhao and Dong, Yinpeng},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
  url = {https://arxiv.org/abs/2210.03372}
}"""
ADVENCODER = """@inproceedings{zhou2023advencoder,
  title = {Downstream-agnostic Adversarial Examples},
  author = {Zhou, Ziqi and Hu, Shengshan and Zhao, Ruizhi and Wang, Qian and Zhang, Leo Yu and
            Hou, Junhui and Jin, Hai},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2023},
  url = {https://arxiv.org/abs/2307.12280}
}"""
CITATIONS = {
    **dict.fromkeys(("l4a", "l4a-fuse", "l4a-ugs"), PAP),
    **dict.fromkeys(("advencoder-per", "advencoder-pat"), ADVENCODER),
    "uap": """@inproceedings{moosavi2017uap,
  title = {Universal Adversarial Perturbations},
  author = {Moosavi-Dezfooli, Seyed-Mohsen and Fawzi, Alhussein and Fawzi, Omar and Frossard, Pascal},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2017},
  url = {https://arxiv.org/abs/1610.08401}
}""",
    "uapgd": """@inproceedings{deng2020uapgd,
  title = {Universal Adversarial Attack Via Enhanced Projected Gradient Descent},
  author = {Deng, Yingpeng and Karam, Lina J.},
  booktitle = {IEEE International Conference on Image Processing},
  year = {2020}
}""",
    "std": """@inproceedings{lu2020dispersion,
  title = {Enhancing Cross-Task Black-Box Transferability of Adversarial Examples With Dispersion Reduction},
  author = {Lu, Yantao and Jia, Yunhan and Wang, Jianyu and Li, Bai and Chai, Weiheng and Carin, Lawrence and
            Velipasalar, Senem},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2020},
  url = {https://arxiv.org/abs/1911.11616}
}""",
    "ssp": """@inproceedings{naseer2020ssp,
  title = {A Self-supervised Approach for Adversarial Robustness},
  author = {Naseer, Muzammal and Khan, Salman and Hayat, Munawar and Khan, Fahad Shahbaz and Porikli, Fatih},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2020},
  url = {https://arxiv.org/abs/2006.04924}
}""",
    "fff": """@inproceedings{mopuri2017fff,
  title = {Fast Feature Fool: A Data Independent Approach to Universal Adversarial Perturbations},
  author = {Mopuri, Konda Reddy and Garg, Utsav and Babu, R. Venkatesh},
  booktitle = {British Machine Vision Conference},
  year = {2017},
  url = {https://arxiv.org/abs/1707.05572}
}""",
    "pgd": """@inproceedings{madry2018pgd,
  title = {Towards Deep Learning Models Resistant to Adversarial Attacks},
  author = {Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and Vladu, Adrian},
  booktitle = {International Conference on Learning Representations},
  year = {2018},
  url = {https://arxiv.org/abs/1706.06083}
}""",
    "fgsm": """@inproceedings{goodfellow2015fgsm,
  title = {Explaining and Harnessing Adversarial Examples},
  author = {Goodfellow, Ian J. and Shlens, Jonathon and Szegedy, Christian},
  booktitle = {International Conference on Learning Representations},
  year = {2015},
  url = {https://arxiv.org/abs/1412.6572}
}""",
    "n-fgsm": """@inproceedings{dejorge2022nfgsm,
  title = {Make Some Noise: Reliable and Efficient Single-Step Adversarial Training},
  author = {de Jorge, Pau and Bibi, Adel and Volpi, Riccardo and Sanyal, Amartya and Torr, Philip H. S. and
            Rogez, Gr{\\'e}gory and Dokania, Puneet K.},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
  url = {https://arxiv.org/abs/2202.01181}
}""",
    "mi-fgsm": """@inproceedings{dong2018mifgsm,
  title = {Boosting Adversarial Attacks With Momentum},
  author = {Dong, Yinpeng and Liao, Fangzhou and Pang, Tianyu and Su, Hang and Zhu, Jun and Hu, Xiaolin and
            Li, Jianguo},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2018},
  url = {https://arxiv.org/abs/1710.06081}
}""",
    "feature-pgd": """@inproceedings{kim2020rocl,
  title = {Adversarial Self-Supervised Contrastive Learning},
  author = {Kim, Minseon and Tack, Jihoon and Hwang, Sung Ju},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020},
  url = {https://arxiv.org/abs/2006.07589}
}""",
    "autoattack": """@inproceedings{croce2020autoattack,
  title = {Reliable Evaluation of Adversarial Robustness With an Ensemble of Diverse Parameter-free Attacks},
  author = {Croce, Francesco and Hein, Matthias},
  booktitle = {International Conference on Machine Learning},
  year = {2020},
  url = {https://arxiv.org/abs/2003.01690}
}""",
    "square": """@inproceedings{andriushchenko2020square,
  title = {Square Attack: A Query-efficient Black-box Adversarial Attack via Random Search},
  author = {Andriushchenko, Maksym and Croce, Francesco and Flammarion, Nicolas and Hein, Matthias},
  booktitle = {European Conference on Computer Vision},
  year = {2020},
  url = {https://arxiv.org/abs/1912.00049}
}""",
}
