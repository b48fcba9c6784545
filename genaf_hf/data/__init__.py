"""Images from the Hub or a local folder, checked, split and turned into pixel values."""

from genaf_hf.data.balance import counted_classes
from genaf_hf.data.digits import DIGITS, digits
from genaf_hf.data.identity import image_digests, images_content
from genaf_hf.data.image_set import ImageSet, commit
from genaf_hf.data.images import load_images, load_unlabelled_images, load_unlabelled_splits
from genaf_hf.data.labels import LabelsError, check_enough_to_train
from genaf_hf.data.pixel_values import to_pixel_values, to_rgb, with_pixel_values
from genaf_hf.data.splits import random_subset, stratified_rows, stratified_subset

__all__ = [
    "DIGITS",
    "ImageSet",
    "LabelsError",
    "check_enough_to_train",
    "commit",
    "counted_classes",
    "digits",
    "image_digests",
    "images_content",
    "load_images",
    "load_unlabelled_images",
    "load_unlabelled_splits",
    "random_subset",
    "stratified_rows",
    "stratified_subset",
    "to_pixel_values",
    "to_rgb",
    "with_pixel_values",
]
