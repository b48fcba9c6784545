import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import gc
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

# Libraries are imported where they are used: the process that hands out tests to others needs none of them.

CLASSES = ["red", "green", "blue"]
SIDE = 8
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY_VIT = {
    "image_size": SIDE,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}

# What a test needs beside this process, by the fixtures that it requests; the others say so by a mark. Tests without
# any of these marks are `fast`.
NEEDS = {"processes": "process", "hub": "hub", "browser": "browser", "server": "database"}
MARKS = {"slow", *NEEDS.values()}
OUTSIDE = {"subprocess.Popen", "os.fork", "os.posix_spawn", "socket.bind", "socket.connect"}


def pytest_collection_modifyitems(items):
    for item in items:
        for need in {NEEDS[name] for name in NEEDS if name in item.fixturenames}:
            item.add_marker(need)
        if MARKS.isdisjoint(mark.name for mark in item.iter_markers()):
            item.add_marker("fast")
    # First what takes long, then what is much: a file is one process's, and the last one keeps others waiting.
    costs = {item.path: cost_of(item) for item in sorted(items, key=cost_of)}
    sizes = Counter(item.path for item in items)
    items.sort(key=lambda item: (-costs[item.path], -sizes[item.path]))


def cost_of(item) -> int:
    """2 where a test waits for others than its own process, 1 where it is slow by itself."""
    marks = {mark.name for mark in item.iter_markers()}
    return 2 if marks & {*NEEDS.values()} else 1 if "slow" in marks else 0


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported stays for good: no garbage collection looks through it, and each training makes one."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


running = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    global running
    running = item
    yield
    running = None


def refuse_what_is_not_fast(event, _):
    if event in OUTSIDE and running is not None and running.get_closest_marker("fast"):
        raise AssertionError(f"{running.nodeid} does {event}: mark it with what it needs")


sys.addaudithook(refuse_what_is_not_fast)


def colored_images(count: int, seed: int):
    """A `Dataset` of noisy images of three colours, in turn: easy to learn, hard enough to attack."""
    import numpy as np
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as PILImage

    generator = np.random.default_rng(seed)
    labels = [i % len(CLASSES) for i in range(count)]
    pixels = generator.integers(0, 120, (count, SIDE, SIDE, 3), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[..., label] += 100
    features = Features({"image": Image(), "label": ClassLabel(names=CLASSES)})
    return Dataset.from_dict(
        {"image": [PILImage.fromarray(each) for each in pixels], "label": labels}, features=features
    )


def benchmark_module(name: str):
    """A script of benchmarks/; they import each other by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return import_module(name)


@pytest.fixture
def own_registries():
    """Attacks, defences and methods of pre-training that a test registers are gone after it."""
    places = {"attacks": "ATTACKS", "training.defences": "DEFENCES", "pretraining.methods": "METHODS"}
    imported = [(sys.modules.get(f"genaf_hf.{module}"), name) for module, name in places.items()]
    registries = [getattr(module, name) for module, name in imported if module is not None]
    before = [dict(registry) for registry in registries]
    yield
    for registry, known in zip(registries, before, strict=True):
        registry.clear()
        registry.update(known)


@pytest.fixture(autouse=True)
def own_perturbations(tmp_path, monkeypatch):
    """No test believes what another one crafted."""
    monkeypatch.setattr("genaf_hf.evaluation.perturbation_cache.CACHE", tmp_path / "perturbations")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Where the tests of a file keep what they share, with the caches of `home` beside it."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def home(place):
    """The user's cache of perturbations is not touched, neither by this process nor by others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genaf_hf.evaluation.perturbation_cache.CACHE", place / "home/genaf_hf/perturbations")
        patch.setenv("HF_HOME", str(place / "home"))
        yield


@pytest.fixture(scope="module")
def quick_checks():
    """The self-checks of an evaluation ask little, in processes that tests start too, for what stands beside them."""
    from processes import LENGTHS_OF_CHECKS, QUICK

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(QUICK, "2")
        for name in LENGTHS_OF_CHECKS:
            patch.setattr(f"genaf_hf.evaluation.self_checks.{name}", 2)
        yield


@pytest.fixture(scope="session")
def processes():
    """The module that starts processes."""
    import processes

    return processes


@pytest.fixture(scope="module")
def hub():
    """A local Hub with one user, empty."""
    from hub_user import TOKEN
    from local_hub import LocalHub

    with LocalHub({TOKEN: "someone"}) as hub:
        yield hub


@pytest.fixture(scope="session")
def dataset():
    """A `DatasetDict`."""
    from datasets import DatasetDict

    return DatasetDict(
        {"train": colored_images(48, 0), "validation": colored_images(12, 1), "test": colored_images(18, 2)}
    )


@pytest.fixture(scope="session")
def encoders(tmp_path_factory) -> dict[str, str]:
    """Folders of tiny public encoders by family, made with fixed seeds."""
    import torch
    from transformers import (
        ResNetConfig,
        ResNetForImageClassification,
        ViTConfig,
        ViTImageProcessor,
        ViTMAEConfig,
        ViTMAEForPreTraining,
        ViTModel,
    )

    root = tmp_path_factory.mktemp("encoders")
    makers = {
        "mae": lambda: ViTMAEForPreTraining(
            ViTMAEConfig(
                **TINY_VIT,
                decoder_hidden_size=8,
                decoder_num_hidden_layers=1,
                decoder_num_attention_heads=2,
                decoder_intermediate_size=16,
            )
        ),
        "dino": lambda: ViTModel(ViTConfig(**TINY_VIT)),
        "resnet": lambda: ResNetForImageClassification(
            ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5)
        ),
    }
    folders = {}
    for family, make in makers.items():
        torch.manual_seed(0)
        folder = root / family
        make().save_pretrained(folder)
        ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
        folders[family] = str(folder)
    return folders


@pytest.fixture(scope="session")
def fresh(encoders):
    """A function that loads a tiny encoder once, and copies it; it leaves the random state of having loaded it."""
    import copy

    import torch

    from genaf_hf import load_encoder

    known = {}

    def fresh(family):
        if family not in known:
            torch.manual_seed(0)
            known[family] = load_encoder(encoders[family], CLASSES), torch.get_rng_state()
        model_and_processor, random_state = known[family]
        torch.set_rng_state(random_state)
        return copy.deepcopy(model_and_processor)

    return fresh


@pytest.fixture
def vit(fresh):
    """A fresh tiny ViT classifier with its processor."""
    return fresh("dino")


@pytest.fixture
def encoder(vit):
    """The tiny ViT as attacks see it."""
    from genaf_hf import PixelModel

    return PixelModel(*vit)


@pytest.fixture
def resnet(fresh):
    """A fresh tiny ResNet classifier (with BatchNorm) with its processor."""
    return fresh("resnet")


@pytest.fixture
def pixels(dataset, vit):
    """The dataset's splits as pixel values."""
    from genaf_hf import with_pixel_values

    return {split: with_pixel_values(part, vit[1]) for split, part in dataset.items()}


@pytest.fixture
def default_config(tmp_path):
    """A function that makes a `GenAFConfig` at its defaults, changed by keyword."""
    from genaf_hf import GenAFConfig

    return lambda **changes: GenAFConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **changes)


@pytest.fixture
def config(tmp_path):
    """A function that makes a small `GenAFConfig`, changed by keyword."""
    from genaf_hf import GenAFConfig

    def make(**changes):
        settings = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 6,
            "adapt_max_steps": 4,
            "per_device_train_batch_size": 8,
            "steps": 2,
            "assessment_samples": 16,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return GenAFConfig(**{**settings, **changes})

    return make
