"""What a search for adapters is asked for."""

from dataclasses import dataclass, field

SMALLEST_POPULATION = 4


@dataclass
class AdapterSearchArguments:
    """Which encoder gets adapters for which images, how many genomes are tried, and where the study is kept."""

    model_name_or_path: str = field(metadata={"help": "Public encoder: Hub id or local folder."})
    dataset_name: str = field(metadata={"help": "Hub id, local folder (also of images in class folders), or digits."})
    population: int = field(default=12, metadata={"help": "Genomes of a generation."})
    generations: int = field(default=10, metadata={"help": "Generations; budget is population times generations."})
    max_parameters: int | None = field(
        default=None, metadata={"help": "Genomes with more trainable parameters are not feasible, and not trained."}
    )
    max_seconds: float | None = field(
        default=None, metadata={"help": "Genomes that take longer to train and measure are not feasible."}
    )
    inherit: bool = field(default=True, metadata={"help": "Start children from their parents' trained adapters."})
    study: str = field(default="adapters", metadata={"help": "Name of the study; an existing one is gone on with."})
    storage: str | None = field(
        default=None,
        metadata={"help": "URL of the study's database, shared by all workers; default study.db in the output folder."},
    )
    heartbeat_seconds: int = field(
        default=10,
        metadata={"help": "How often workers tell that they live; after six times as long one is taken for dead."},
    )
    pick: int | None = field(
        default=None,
        metadata={"help": "Number of a trial whose adapter is merged into a plain model, once the search is done."},
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the encoder."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "As in from_pretrained; eager for bf16 on CPU."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration (subset) of the dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the dataset."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images; found if there is one."})
    label_column: str | None = field(default=None, metadata={"help": "Column of class labels; found if there is one."})
    train_split: str | None = field(default=None, metadata={"help": "Split to train on."})
    validation_split: str | None = field(
        default=None, metadata={"help": "Split to measure genomes on; else held out of train."}
    )
    test_split: str | None = field(default=None, metadata={"help": "Split to report, never used to choose anything."})
    held_out_share: float = field(default=0.1, metadata={"help": "Share of train held out for each missing split."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on a stratified subset of this size."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Validate and report on stratified subsets of this size."}
    )
    search_steps: int = field(default=10, metadata={"help": "Steps of PGD by which genomes are compared."})
    pgd_eps: float | None = field(default=None, metadata={"help": "Eps of PGD, default the training eps."})
    pgd_steps: int = field(default=20, metadata={"help": "Steps of PGD in the report."})
    dae_eps: float | None = field(
        default=None,
        metadata={"help": "Eps of the universal perturbation on a picked model, default the training eps."},
    )
    dae_steps: int = field(default=500, metadata={"help": "Steps by which the universal perturbation is crafted."})
    dae_layer: int = field(
        default=1, metadata={"help": "Hidden state that the perturbation raises; 0 is the embeddings or the stem."}
    )

    def __post_init__(self):
        if self.population < SMALLEST_POPULATION:
            raise ValueError(
                f"population is {self.population}, expected at least {SMALLEST_POPULATION}: the known configurations "
                "and one to cross them with."
            )
        for name in ("generations", "search_steps", "heartbeat_seconds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1.")
        for name in ("max_parameters", "max_seconds"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} is {value}, expected a positive number.")

    @property
    def budget(self) -> int:
        """Genomes to be evaluated."""
        return self.population * self.generations
