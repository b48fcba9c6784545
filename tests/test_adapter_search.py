import csv
import json
import runpy
import shutil
import sys
from operator import eq
from pathlib import Path

import optuna
import pytest
import torch
from conftest import colored_images
from datasets import DatasetDict
from optuna.trial import TrialState
from own_defence import HALF
from peft import PeftModel
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, PreTrainedModel

from genaf_hf import PixelModel, load_encoder, with_pixel_values
from genaf_hf.adapter_search import METHODS, AdapterSearchArguments, Genome, evolve, pick
from genaf_hf.adapter_search.content import encoder_content, images_content
from genaf_hf.adapter_search.fitness import Fitness
from genaf_hf.adapter_search.laboratory import open_laboratory
from genaf_hf.adapter_search.search import settings_of_search
from genaf_hf.adapter_search.search_space import ALL_LINEAR, SearchSpace
from genaf_hf.adapter_search.storage import slot
from genaf_hf.attacks import ATTACKS, UniversalPerturbation
from genaf_hf.attacks.pgd import default_step_size
from genaf_hf.data import load_images
from genaf_hf.errors import UserError
from genaf_hf.evaluation.answers import answer
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.evaluation.threats import ImageThreat
from genaf_hf.sharing.record import OF_ADAPTER, TrainingRecord

pytestmark = [
    pytest.mark.slow(reason="searches, trains and merges"),
    pytest.mark.usefixtures("quick_checks"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]
RECIPE = Path(__file__).parents[1] / "recipes" / "evolve_peft.py"
QUICK = {"population": 4, "generations": 2, "search_steps": 1, "attacks": "l4a,pgd", "attack_settings": '{"steps": 2}'}
TRAINING = {"max_steps": 12, "learning_rate": 1e-2, "head_learning_rate": 3e-2, "steps": 1, "genetic_weight": 0.0}


@pytest.fixture(scope="module")
def given(dataset, encoders, place) -> dict[str, str]:
    """Encoder and images, by the names of the flags."""
    dataset.save_to_disk(place / "colours")
    return {"model_name_or_path": encoders["dino"], "dataset_name": str(place / "colours")}


@pytest.fixture
def arguments(given):
    return lambda **changes: AdapterSearchArguments(**{**given, **QUICK, **changes})


@pytest.fixture(scope="module")
def searched(processes, given, place) -> tuple[Path, str]:
    """The folder that the recipe leaves, and what it prints."""
    folder = place / "out"
    done = processes.run(command(given, folder))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def command(given: dict[str, str], folder: Path, **changes) -> list[str]:
    flags = {**given, **QUICK, **TRAINING, "output_dir": folder, "per_device_train_batch_size": 8, "use_cpu": True,
             "report_to": "none", **changes}  # fmt: skip
    return [sys.executable, str(RECIPE), *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]


@pytest.fixture
def again(searched, config):
    """The configuration of the search that the recipe made."""
    return config(output_dir=str(searched[0]), adapt_max_steps=-1, assessment_samples=1024, save_strategy="steps",
                  disable_tqdm=False, **TRAINING)  # fmt: skip


def test_the_recipe_leaves_a_front_and_every_member_loads(searched, given):
    folder, printed = searched
    members = json.loads((folder / "front.json").read_text())
    rows = list(csv.DictReader((folder / "front.csv").open()))
    assert (folder / "front.md").read_text().strip() in printed
    assert [row["trial"] for row in rows] == [str(each["trial"]) for each in members]
    assert {each["known"] for each in members} >= {"LoRA q, v, rank 8", "LoRA all linear, rank 8", "head only"}
    assert any(each["on_front"] for each in members)
    assert max(each["clean"]["part"] for each in members) > 9  # of 18, three classes
    assert (folder / "front.png").stat().st_size > 10_000
    assert len((folder / "trials.csv").read_text().splitlines()) == 1 + 8
    encoder, _ = load_encoder(given["model_name_or_path"], ["red", "green", "blue"])
    for each in members:
        adapter = folder / "adapters" / f"trial-{each['trial']}"
        assert Genome.from_json((adapter / "genome.json").read_text()) == Genome(**each["genome"])
        model = PeftModel.from_pretrained(encoder, adapter, is_trainable=True)
        assert sum(one.numel() for one in model.parameters() if one.requires_grad) == each["parameters"]
        encoder = model.unload()


def test_nothing_tells_where_it_was_made(searched, given):
    folder, _ = searched
    texts = [path for path in (folder / "adapters").rglob("*") if path.suffix in (".json", ".md")]
    assert texts
    assert not [path for path in texts if str(Path(given["model_name_or_path"]).parent) in path.read_text()]


def unwritten(*args, **kwargs):
    raise OSError("No space left on the disk")


def test_a_picked_member_is_a_plain_model_with_the_accuracies_of_the_table(
    processes, searched, again, arguments, monkeypatch, caplog
):
    folder, _ = searched
    members = evolve(arguments(), again)  # the search is done: only the table is made again
    chosen = max(members, key=lambda each: (0 < each.robust.part < each.clean.part, each.clean.part))
    with monkeypatch.context() as full:
        full.setattr(PreTrainedModel, "save_pretrained", unwritten)
        with pytest.raises(OSError, match="disk"):
            pick(arguments(pick=chosen.trial), again, members)
    other = 0 if chosen.trial else 1
    with pytest.raises(UserError, match=rf"unfinished run .* \(pick was {chosen.trial} and is {other}\)"):
        evolve(arguments(pick=other), again)
    measured = [*(folder / "picked" / "unfinished_run" / "evaluation").rglob("*")]
    assert len(measured) >= 4  # clean, l4a, its twin, pgd
    caplog.set_level("INFO")
    report = pick(arguments(pick=chosen.trial), again, members)
    assert f"Going on with the unfinished run in {folder / 'picked'}" in caplog.text
    (name,) = report.models
    assert report.measurement(name, "clean").accuracy == chosen.clean
    assert report.measurement(name, "pgd").accuracy == chosen.robust
    assert report.attacks == ["clean", "l4a", "l4a-adaptive", "pgd"]
    assert RobustnessReport.load(folder / "picked" / "report.json") == report
    record, genome = TrainingRecord.load(folder / "picked" / "training.json"), chosen.genome
    assert record.stages[OF_ADAPTER]["steps"] == TRAINING["max_steps"]
    assert record.hyperparameters["step_size"] == default_step_size(again.eps * genome.eps_share, genome.steps)
    assert record.example.keys() == {"label", "answer", "probability"}
    assert (folder / "picked" / "example.png").exists()
    assert not (folder / "picked" / "unfinished_run").exists()
    assert (folder / "picked" / "training_curves.png").stat().st_size > 10_000
    card = (folder / "picked" / "README.md").read_text()
    assert "| adversarial finetune of adapter | 12 |" in card
    assert "learning_rate" in card
    assert "all weights" not in card

    test = load_images(arguments().dataset_name)["test"]
    code = (
        "import sys, torch; from transformers import AutoImageProcessor, AutoModelForImageClassification as Auto\n"
        "from datasets import load_from_disk\n"
        "test = load_from_disk(sys.argv[2])['test']; processor = AutoImageProcessor.from_pretrained(sys.argv[1])\n"
        "logits = Auto.from_pretrained(sys.argv[1])(**processor(test['image'][:], return_tensors='pt')).logits\n"
        "print((logits.argmax(1) == torch.tensor(test['label'])).sum().item())\n"
        "assert not {'genaf_hf', 'peft'} & {*sys.modules}"
    )
    plain = [sys.executable, "-c", code, str(folder / "picked"), arguments().dataset_name]
    done = processes.run(plain, cwd=folder)
    assert done.stdout.split() == [str(chosen.clean.part)], done.stderr
    assert len(test) == chosen.clean.count
    plain = AutoModelForImageClassification.from_pretrained(folder / "picked")
    processor = AutoImageProcessor.from_pretrained(folder / "picked")
    assert type(plain).__name__ == chosen_class(report)
    attack = ImageThreat("pgd", ATTACKS["pgd"].configure(eps=again.eps, steps=2)).on("picked")
    found = answer(PixelModel(plain, processor), with_pixel_values(test, processor), attack, seed=again.seed)
    assert sum(map(eq, found.predictions, found.labels)) == chosen.robust.part
    assert 0 < chosen.robust.part < chosen.clean.part
    with pytest.raises(ValueError, match=r"pick is 99, expected one of the trials \d"):
        pick(arguments(pick=99), again, members)


def chosen_class(report: RobustnessReport) -> str:
    return next(iter(report.models.values()))["class"]


def test_children_inherit_from_trials_before_them(searched):
    folder, _ = searched
    (study,) = optuna.get_all_study_names(f"sqlite:///{folder / 'study.db'}")
    trials = optuna.load_study(study_name=study, storage=f"sqlite:///{folder / 'study.db'}").trials
    assert len(trials) == 8
    assert all(trial.user_attrs["parents"] == [] for trial in trials[:4])
    assert all(1 <= len(trial.user_attrs["parents"]) <= 2 for trial in trials[4:])
    assert all(parent < 4 for trial in trials[4:] for parent in trial.user_attrs["parents"])


def test_another_search_in_the_same_study_is_refused(searched, again, arguments):
    again.eps = 0.5
    with pytest.raises(
        ValueError, match=r'The study "adapters" was begun with other settings \(eps was None and is 0.5'
    ):
        evolve(arguments(), again)


@pytest.fixture
def elsewhere(dataset, encoders, tmp_path, monkeypatch):
    """A function that makes encoders, images and a PEFT that differ from those of the search, by the same names."""

    def make(what: str) -> dict[str, str]:
        if what == "encoder":
            torch.manual_seed(1)
            encoder = AutoModel.from_config(AutoConfig.from_pretrained(encoders["dino"]))
            shutil.copytree(encoders["dino"], tmp_path / "dino")
            encoder.save_pretrained(tmp_path / "dino")
            return {"model_name_or_path": str(tmp_path / "dino")}
        if what == "images":
            changed = DatasetDict({**dataset, "validation": colored_images(12, 3)})
            changed.save_to_disk(tmp_path / "colours")
            return {"dataset_name": str(tmp_path / "colours")}
        monkeypatch.delitem(METHODS, "hra")
        return {}

    return make


@pytest.mark.parametrize("what", ["encoder", "images", "methods"])
def test_a_search_of_something_else_by_the_same_names_is_refused(what, elsewhere, searched, again, arguments):
    changes, value = elsewhere(what), r"(\w{64}|\[.*\])"
    sentence = rf'The study "adapters" was begun with other settings \({what} was {value} and is {value}\): choose'
    with pytest.raises(ValueError, match=sentence):
        evolve(arguments(**changes), again)


def test_content_is_the_same_wherever_it_lies(encoders, dataset, arguments, config, tmp_path):
    shutil.copytree(encoders["dino"], tmp_path / "dino")
    dataset.save_to_disk(tmp_path / "colours")
    copied = arguments(model_name_or_path=str(tmp_path / "dino"), dataset_name=str(tmp_path / "colours"))
    first, second = (open_laboratory(asked, config()) for asked in (arguments(), copied))
    assert images_content(first.data) == images_content(second.data)
    assert encoder_content(first.encoder, first.processor) == encoder_content(second.encoder, second.processor)
    second.encoder.config._commit_hash = "0" * 40
    assert encoder_content(second.encoder, second.processor) == "0" * 40


def test_settings_tell_no_path_and_no_storage(arguments, config):
    laboratory = open_laboratory(arguments(storage="postgresql://me:s3cret@host/db", pick=3), config(eps=0.1))
    settings = settings_of_search(laboratory)
    assert settings["model_name_or_path"] == "dino"
    assert settings["eps"] == 0.1
    assert settings["heartbeat_seconds"] == 10  # workers with another one would take each other for dead
    assert not {"storage", "study", "pick", "output_dir"} & settings.keys()
    assert arguments().dataset_name not in json.dumps(settings)


def test_genomes_that_are_too_large_are_not_trained_and_not_on_the_front(arguments, config, tmp_path):
    out, settings = tmp_path / "out", {"max_steps": 1, "steps": 1}
    (out / "adapters" / "trial-1").mkdir(parents=True)  # LoRA on all linear layers, of some other search
    members = evolve(arguments(max_parameters=1000, generations=1), config(output_dir=str(out), **settings))
    assert all(each.parameters <= 1000 for each in members)
    assert "head only" in {each.known for each in members}
    assert not list((out / "adapters" / "trial-1").iterdir())

    short = arguments(max_parameters=60, max_seconds=1e-6, generations=1)
    with pytest.raises(ValueError, match=r"No known configuration met max_seconds, the fastest took .*: choose"):
        evolve(short, config(output_dir=str(tmp_path / "short"), **settings))


def test_a_study_of_the_same_name_in_another_storage_does_not_take_the_adapters(searched, again, arguments, tmp_path):
    front = (searched[0] / "front.json").read_bytes()
    elsewhere = arguments(storage=f"sqlite:///{tmp_path / 'other.db'}")
    with pytest.raises(ValueError, match=r'adapters of another study of the name "adapters".*--study or --output_dir'):
        evolve(elsewhere, again)
    assert (searched[0] / "front.json").read_bytes() == front


def test_a_layer_that_a_picked_model_could_not_be_attacked_at_is_refused_at_once(searched, again, arguments):
    with pytest.raises(ValueError, match="layer is 99, expected 0 to 2"):
        evolve(arguments(pick=0, attack_settings={"steps": 2, "layer": 99}), again)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"population": 3}, "population is 3, expected at least 4"),
        ({"generations": 0}, "generations is 0, expected at least 1"),
        ({"max_parameters": 0}, "max_parameters is 0, expected a positive number"),
        ({"max_seconds": -1.0}, r"max_seconds is -1\.0, expected a positive number"),
        ({"study": ".."}, r'study is "\.\.", expected a name for a folder of its own'),
        ({"study": "picked"}, 'study is "picked", expected a name'),
        ({"study": "front.md"}, 'study is "front.md", expected a name'),
        ({"study": "study.db"}, 'study is "study.db", expected a name'),
        ({"pick": 8}, "pick is 8, expected the number of a trial, 0 to 7"),
        ({"pick": -1}, "pick is -1, expected the number of a trial"),
        ({"max_parameters": 10}, "max_parameters is 10, but the head alone has 51"),
        ({"storage": "study.db"}, "The storage is no URL of a database"),
        ({"model_name_or_path": "nobody/nothing"}, '"nobody/nothing" is neither'),
        ({"attack_settings": {"pgd": {"steps": 0}}}, "steps is 0, expected a whole number"),
        ({"attacks": "l4a"}, "attacks are l4a, but genomes are compared by pgd"),
    ],
)
def test_what_cannot_be_searched_is_refused(changes, sentence, arguments, config):
    with pytest.raises(ValueError, match=sentence):
        evolve(arguments(**changes), config())


@pytest.mark.parametrize(
    ("defence", "changes", "reason"),
    [
        ("linear-probe", {"steps": None, "eps": None}, "leaves the encoder as it is"),
        ("awp", {}, "changes weights or layers of the encoder"),
        ("twins", {}, "changes weights or layers of the encoder"),
    ],
)
def test_a_defence_that_adapters_have_no_part_in_is_refused(arguments, config, defence, changes, reason):
    with pytest.raises(UserError, match=f"defence is {defence}, which {reason}"):
        evolve(arguments(), config(defence=defence, genetic_weight=None, **changes))


@pytest.mark.parametrize("settings", [{"defence_settings": {"bank": []}}, {"defence_settings": {**HALF, "bank": []}}])
def test_genomes_are_trained_by_any_defence(dataset, encoders, config, settings):
    encoder, processor = load_encoder(encoders["dino"], dataset["train"].features["label"].names)
    pixels = with_pixel_values(dataset["train"], processor)
    training = config(defence="universal", eps=0.04, max_steps=2, steps=None, genetic_weight=None, **settings)
    space = SearchSpace.of(encoder, training, pixels[:2]["pixel_values"])
    assert not {"steps", "genetic_weight"} & space.distributions.keys()
    genome = space.genome({**space.known_configurations()[ALL_LINEAR], "eps_share": 0.5})
    assert (genome.steps, genome.genetic_weight) == (None, None)
    assert Genome.from_json(genome.to_json()) == genome
    threat = ImageThreat("pgd", ATTACKS["pgd"].configure(steps=1))
    fitness = Fitness(encoder, processor, pixels, pixels, training, threat)
    trained = fitness.training_of(genome)
    assert (trained.eps, trained.step_size) == (0.02, pytest.approx(training.step_size / 2))
    assert fitness(genome).parameters == fitness.parameters(genome)


def test_a_pick_has_the_perturbations_that_its_adapter_was_trained_on(arguments, config, tmp_path):
    live_ones = {"defence": "universal", "defence_settings": {"bank": [], "live": 2, "class_share": 0}}
    training = {"max_steps": 2, "eps": 0.04, "steps": None, "genetic_weight": None, "output_dir": str(tmp_path)}
    asked = arguments(generations=1, pick=0), config(**live_ones, **training)
    pick(*asked, evolve(*asked))
    ours, trials = (tmp_path / folder / "training_perturbations" for folder in ("picked", "adapters/trial-0"))
    perturbations = [path.relative_to(trials) for path in sorted(trials.rglob("*.safetensors"))]
    assert len(perturbations) == 3  # two live ones and the live patch
    card = (tmp_path / "picked/README.md").read_text(encoding="utf-8")
    assert "lie in `training_perturbations/`: live-1, live-2, live-patch." in card
    for name in perturbations:
        assert (ours / name).read_bytes() == (trials / name).read_bytes()
    assert UniversalPerturbation.from_pretrained((ours / perturbations[0]).parent).encoder == "dino"


def test_all_genomes_have_the_eps_of_a_bank_which_is_crafted_once(dataset, encoders, config):
    encoder, processor = load_encoder(encoders["dino"], dataset["train"].features["label"].names)
    pixels = with_pixel_values(dataset["train"], processor)[:2]["pixel_values"]
    training = config(defence="universal", eps=0.04, steps=None, genetic_weight=None)
    assert "eps_share" not in SearchSpace.of(encoder, training, pixels).distributions


def test_an_objective_that_never_varies_is_told(arguments, config, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        evolve(arguments(generations=1), config(output_dir=str(tmp_path), max_steps=1, learning_rate=1e-9,
                                               head_learning_rate=1e-9, steps=1))  # fmt: skip
    assert "clean_accuracy is 0.3333 for all of 4 genomes" in caplog.text


def test_the_recipe_says_that_a_pick_was_not_made(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", command(given, tmp_path, pick=3)[1:])
    monkeypatch.setattr("genaf_hf.cli.evolve.evolve", lambda arguments, config: None)
    runpy.run_path(str(RECIPE), run_name="__main__")
    assert "Trial 3 was not picked" in capsys.readouterr().out


def test_a_search_whose_worker_was_killed_goes_on_and_meets_its_budget(processes, given, again, arguments, tmp_path):
    folder = tmp_path / "out"
    again.output_dir = str(folder)
    processes.start_and_kill(command(given, folder, heartbeat_seconds=1), folder / "adapters" / "trial-1")
    members = evolve(arguments(heartbeat_seconds=1), again)
    trials = optuna.load_study(study_name="adapters", storage=f"sqlite:///{folder / 'study.db'}").trials
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert sorted(map(slot, completed)) == list(range(8))
    assert len({trial.user_attrs["worker"] for trial in completed}) == 2
    assert len(failed) <= 1  # none where the worker had just told what it found
    assert {each.trial for each in members} <= {trial.number for trial in completed}
    assert [each["trial"] for each in json.loads((folder / "front.json").read_text())] == [
        each.trial for each in members
    ]


def test_the_recipe_refuses_in_one_sentence(given, tmp_path, monkeypatch, capfd):
    words = command(given, tmp_path, storage="postgresql://me:s3cret@127.0.0.1:1/db")
    monkeypatch.setattr(sys, "argv", words[1:])
    with pytest.raises(SystemExit, match=r"no connection to postgresql://me:\*\*\*@127\.0\.0\.1:1/db") as refused:
        runpy.run_path(str(RECIPE), run_name="__main__")
    assert "s3cret" not in str(refused.value) + "".join(capfd.readouterr())


WITHOUT = """
import sys
sys.modules["optuna"] = sys.modules["sqlalchemy"] = None  # as if they were not installed
import genaf_hf.pipelines.audit, genaf_hf.pipelines.harden, genaf_hf.pretraining.pretrain
try:
    import genaf_hf.adapter_search
except genaf_hf.errors.UserError as error:
    print(error)
"""


def test_only_a_search_needs_its_packages_and_says_so(processes):
    done = processes.run([sys.executable, "-c", WITHOUT], check=True)
    assert done.stdout == "The search for adapters needs Optuna: pip install 'genaf_hf[search]'.\n"
