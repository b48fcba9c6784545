"""What lies in the folder of a model that was hardened or audited, by name, and what of it is shared."""

from pathlib import Path

from genaf_hf.evaluation.report import ANSWERS, REPORT, UNDEFENDED
from genaf_hf.sharing.hub_metadata import dataset_type

CARD = "README.md"
SPREADSHEET = "report.csv"
RECORD = "training.json"
LAYERS = "layer_robustness.json"
DRIFT = "drift.json"  # of the features of an encoder
EXAMPLE = "example.png"  # an image whose answer the record tells
PERTURBATION = "perturbation"
PERTURBATIONS = "perturbations"  # of an audit, each in a folder of its own
TRAINED_ON = "training_perturbations"  # universal ones that a model was trained on, each in a folder of its own
TASKS = "tasks"  # that an encoder was probed on, each in a folder of its own
REPORTS_OF_TASKS = f"{TASKS}/*/{REPORT}"
AUDIT = "audit"  # what an audit found, in the folder of its model

OVERVIEW, SWEEP, GALLERY = "overview.png", "accuracy_by_eps.png", "gallery.png"
DRIFT_DRAWN = "drift.png"
SAMPLES, LAYERS_DRAWN, CURVES = "samples.png", "layer_robustness.png", "training_curves.png"
# What the pictures show, in the order in which a card shows them.
RESULT_PICTURES = {
    OVERVIEW: "Attacked images, what the models make of them, and accuracies under the worst attack of each kind",
    SWEEP: "Accuracy against eps under every attack",
    DRIFT_DRAWN: "How far attacks move the features of both encoders",
    GALLERY: "Images, perturbations and attacked images with predictions",
}
TRAINING_PICTURES = {
    SAMPLES: "Training images, a class in each row",
    LAYERS_DRAWN: "Contribution of each layer to robustness; the most redundant ones are those of stage 2",
    CURVES: "Losses and accuracies during training",
}
PICTURES = {**RESULT_PICTURES, **TRAINING_PICTURES}

HARDENED_MODEL = (
    *(CARD, REPORT, SPREADSHEET, RECORD, LAYERS, EXAMPLE, UNDEFENDED, PERTURBATION, TRAINED_ON, *PICTURES),
    *("config.json", "model.safetensors"),
)
HARDENED_ENCODER = (
    *(CARD, REPORT, SPREADSHEET, DRIFT, RECORD, TASKS, PERTURBATION, TRAINED_ON, *PICTURES),
    *("config.json", "model.safetensors"),
)
AUDITED = (CARD, REPORT, SPREADSHEET, ANSWERS, SWEEP, GALLERY, PERTURBATIONS)
PUBLISHED = (
    *(CARD, REPORT, REPORTS_OF_TASKS, SPREADSHEET, DRIFT, RECORD, LAYERS, EXAMPLE, *PICTURES),
    *(f"{AUDIT}/{name}" for name in (REPORT, *RESULT_PICTURES)),
    *(f"{PERTURBATION}/perturbation.safetensors", f"{TRAINED_ON}/*/perturbation.safetensors"),
    *("config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("adapter_config.json", "adapter_model*.safetensors", "preprocessor_config.json", "processor_config.json"),
    *("configuration_encoder_classifier.py", "modeling_encoder_classifier.py"),
)


def published_in(folder: Path) -> list[str]:
    """What of a folder is shared, by the path of each file in it."""
    return [path.relative_to(folder).as_posix() for pattern in PUBLISHED for path in sorted(folder.glob(pattern))]


def report_of_task(name: str) -> str:
    """Where the report on probes for some images lies, by their Hub id or the name of their folder.

    The Hub takes results on images of one `dataset_type` for results on the same ones: they have one place.
    """
    return f"{TASKS}/{dataset_type(name).replace('/', '--')}/{REPORT}"
