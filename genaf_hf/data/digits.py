"""The embedded default data: scikit-learn's handwritten digits, 1,797 real images of 8 x 8 pixels."""

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage

DIGITS = "digits"
TEST_SIZE = 500
SPLIT_SEED = 0


def digits() -> DatasetDict:
    """The digits with columns `image` (Image, 8-bit RGB) and `label` (ClassLabel), in stratified splits train and test.

    Source: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
    (https://doi.org/10.24432/C50P49), the copy inside scikit-learn.
    """
    from sklearn.datasets import load_digits  # takes a second of import, which other data can do without

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(name) for name in bunch.target_names])})
    columns = {"image": [PILImage.fromarray(image).convert("RGB") for image in pixels], "label": bunch.target.tolist()}
    dataset = Dataset.from_dict(columns, features=features)
    return dataset.train_test_split(test_size=TEST_SIZE, seed=SPLIT_SEED, stratify_by_column="label")
