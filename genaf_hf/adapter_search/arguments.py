"""What a search for adapters is asked for."""

from dataclasses import dataclass, field

from genaf_hf.errors import UserError
from genaf_hf.pipelines.experiment_arguments import ExperimentArguments

SMALLEST_POPULATION = 4
PICKED = "picked"
STUDY_FILE, TRIALS = "study.db", "trials.csv"
FRONT_TABLE, FRONT_ROWS, FRONT_VALUES, FRONT_DRAWN = FRONT = "front.md", "front.csv", "front.json", "front.png"
# As folders: the output folder itself, the one above it, the picked model's, and what else lies there.
TAKEN = ("", ".", "..", PICKED, STUDY_FILE, TRIALS, *FRONT)


@dataclass
class AdapterSearchArguments(ExperimentArguments):
    """Which encoder gets adapters for which images, how many genomes are tried, and where the study is kept."""

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
    search_steps: int = field(default=10, metadata={"help": "Steps of PGD by which genomes are compared."})

    def __post_init__(self):
        super().__post_init__()
        if self.study in TAKEN:
            raise UserError(f'study is "{self.study}", expected a name for a folder of its own: choose another one.')
        if self.population < SMALLEST_POPULATION:
            raise UserError(
                f"population is {self.population}, expected at least {SMALLEST_POPULATION}: the known configurations "
                "and one to cross them with."
            )
        for name in ("generations", "search_steps", "heartbeat_seconds"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1.")
        for name in ("max_parameters", "max_seconds"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UserError(f"{name} is {value}, expected a positive number.")

    @property
    def budget(self) -> int:
        """Genomes to be evaluated."""
        return self.population * self.generations
