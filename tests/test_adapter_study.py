import logging
from functools import partial

import optuna
import pytest
from optuna.samplers import NSGAIISampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from genaf_hf.adapter_search.sampler import GenerationSampler, parents, survivors
from genaf_hf.adapter_search.storage import TRIES, open_storage, retry, slot
from genaf_hf.adapter_search.study import SECONDS, begin_or_join, failure, is_superfluous, last_tries, work

pytestmark = [
    pytest.mark.slow(reason="each study is a database of its own"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.usefixtures("quiet"),
]
POPULATION, BUDGET, WHOLE_BUDGET = 4, 6, 12
DIGIT = optuna.distributions.IntDistribution(0, 9)
KNOWN = {"middle": {"x": 0.5, "y": 0.5}, "corner": {"x": 1.0, "y": 1.0}}


@pytest.fixture
def quiet():
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def join(url):
    """A function by which a worker begins or joins the study."""
    return partial(join_at, url)


@pytest.fixture(scope="module")
def finished(place):
    """A study of three generations that one worker finished, and the numbers of the trials that are its own."""
    study = join_at(f"sqlite:///{place / 'study.db'}", budget=WHOLE_BUDGET)
    return study, work(study, objective, heartbeat_seconds=1)


def join_at(url: str, **changes) -> optuna.Study:
    given = {
        "name": "adapters",
        "settings": {"eps": 0.1, "population": POPULATION},
        "budget": BUDGET,
        "known": KNOWN,
        "sampler": GenerationSampler(POPULATION, seed=0, whole=1000),
    }
    return begin_or_join(open_storage(url, heartbeat_seconds=1), **{**given, **changes})


def objective(trial: optuna.Trial) -> tuple[float, float, int]:
    x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
    trial.set_user_attr(SECONDS, x)
    return x, y, 1 + round(100 * (x + y))


def test_every_genome_of_the_budget_is_evaluated_once_known_ones_first(finished):
    study, own = finished
    assert own == list(range(WHOLE_BUDGET))
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * WHOLE_BUDGET
    assert [trial.params for trial in trials[:2]] == list(KNOWN.values())
    assert [trial.user_attrs.get("known") for trial in trials[:3]] == ["middle", "corner", None]


def test_known_configurations_are_of_the_first_generation_and_have_children(finished):
    study, _ = finished
    nsga = NSGAIISampler(population_size=POPULATION)
    generations = [nsga.get_trial_generation(study, trial) for trial in study.get_trials()]
    assert generations == [0] * POPULATION + [1] * POPULATION + [2] * POPULATION
    assert 1 in {trial.number for trial in nsga.get_parent_population(study, 1)}  # the corner is best in two ways


def test_a_study_that_was_left_is_gone_on_with_and_gives_the_same_genomes(join, finished):
    left = POPULATION - 1

    def leaving(trial):
        found = objective(trial)
        if trial.number == left:
            raise KeyboardInterrupt
        return found

    with pytest.raises(KeyboardInterrupt):
        work(join(), leaving, heartbeat_seconds=1)
    study = join()
    assert len(work(study, objective, heartbeat_seconds=1)) == BUDGET - left
    trials = last_tries(study)
    assert [slot(trial) for trial in trials] == list(range(BUDGET))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    whole = finished[0].get_trials()
    assert [trial.params for trial in trials[:POPULATION]] == [trial.params for trial in whole[:POPULATION]]


def test_a_genome_that_fails_is_recorded_and_the_search_goes_on(join):
    def failing(trial):
        found = objective(trial)
        if trial.number == 3:
            raise RuntimeError("CUDA out of memory")
        return (float("nan"), *found[1:]) if trial.number == 4 else found

    study = join()
    work(study, failing, heartbeat_seconds=1)
    trials = study.get_trials()
    assert len(trials) == BUDGET
    assert [trial.number for trial in trials if trial.state == TrialState.FAIL] == [3, 4]
    assert failure(trials[3]) == "RuntimeError: CUDA out of memory"
    assert "nan" in failure(trials[4])


def test_a_search_in_which_nothing_works_stops_and_says_why(join):
    def failing(trial):
        raise RuntimeError("no kernel image")

    study = join()
    with pytest.raises(ValueError, match=r"All of the first 5 genomes failed\. The first one: .*no kernel image"):
        work(study, failing, heartbeat_seconds=1)
    assert sum(trial.state == TrialState.FAIL for trial in study.get_trials()) == 5


def test_genomes_that_are_too_large_do_not_hide_that_nothing_works(join):
    def failing(trial):
        if trial.number == 0:
            trial.set_constraint("parameters", 1)
            return 0.0, 0.0, 9999
        raise RuntimeError("no kernel image")

    with pytest.raises(ValueError, match=r"first 5 genomes failed\. .*no kernel image\. .*choose another --study"):
        work(join(), failing, heartbeat_seconds=1)


def test_a_search_that_is_too_slow_stops_after_the_known_configurations(join):
    def slow(trial):
        trial.set_constraint("seconds", 7.5 + trial.number)
        return objective(trial)

    study = join()
    with pytest.raises(ValueError, match=r"No known configuration met max_seconds, the fastest took 0\.5: choose"):
        work(study, slow, heartbeat_seconds=1)
    assert sum(trial.state == TrialState.COMPLETE for trial in study.get_trials()) == len(KNOWN)


def test_a_worker_that_was_killed_before_its_first_heartbeat_holds_nobody_up(monkeypatch, url):
    for module in ("storage", "study"):
        monkeypatch.setattr(f"genaf_hf.adapter_search.{module}.SILENT_HEARTBEATS", 1)
    study = join_at(url)
    study.ask()
    assert len(work(study, objective, heartbeat_seconds=1)) == BUDGET
    assert [trial.state for trial in last_tries(study)] == [TrialState.COMPLETE] * BUDGET


@pytest.mark.parametrize(("state", "values"), [(TrialState.FAIL, None), (TrialState.COMPLETE, [0.5, 0.5, 3])])
def test_a_worker_lets_a_genome_go_that_another_one_has_ended(join, caplog, state, values):
    study = join()

    def silent(trial):
        if trial.number == 2:
            study._storage.set_trial_state_values(trial._trial_id, state, values)  # as another worker does
        return objective(trial)

    with caplog.at_level(logging.WARNING):
        own = work(study, silent, heartbeat_seconds=1)
    assert "Genome 2 was ended by another worker" in caplog.text
    assert 2 not in own
    assert {trial.state for trial in last_tries(study)} == {TrialState.COMPLETE}
    assert [slot(trial) for trial in last_tries(study)] == list(range(BUDGET))


def test_a_genome_that_two_workers_gave_to_be_tried_again_is_counted_once(join):
    study = join()

    def killed(trial):
        if trial.number == 2:
            raise KeyboardInterrupt
        return objective(trial)

    with pytest.raises(KeyboardInterrupt):
        work(study, killed, heartbeat_seconds=1)
    for _ in range(2):  # as both do that find it lost in the same moment
        retry(study, study.get_trials()[2])
    work(study, objective, heartbeat_seconds=1)
    completed = [slot(trial) for trial in study.get_trials(states=[TrialState.COMPLETE])]
    assert sorted(completed) == list(range(BUDGET))
    assert is_superfluous(BUDGET + 1, study.get_trials(), BUDGET)


def test_a_genome_that_kills_every_worker_is_given_up(join):
    study = join()

    def deadly(trial):
        if slot(study.get_trials(deepcopy=False)[trial.number]) == 2:
            raise KeyboardInterrupt
        return objective(trial)

    for _ in range(TRIES):
        with pytest.raises(KeyboardInterrupt):
            work(study, deadly, heartbeat_seconds=1)
    work(study, deadly, heartbeat_seconds=1)
    final = last_tries(study)
    assert [trial.state for trial in final].count(TrialState.FAIL) == 1
    assert failure(final[2]) == f"its workers were killed, {TRIES} of them"
    assert sum(slot(trial) == 2 for trial in study.get_trials()) == TRIES


def test_other_settings_are_refused_with_what_differs(join):
    join()
    with pytest.raises(
        ValueError, match=r'"adapters" was begun with other settings \(eps was 0.1 and is 0.2\): choose'
    ):
        join(settings={"eps": 0.2, "population": POPULATION})
    with pytest.raises(ValueError, match="norm was None and is l2"):
        join(settings={"eps": 0.1, "population": POPULATION, "norm": "l2"})


def test_a_study_of_somebody_else_is_refused(join, url, monkeypatch):
    monkeypatch.setattr("genaf_hf.adapter_search.study.SETUP_SECONDS", 1)
    optuna.create_study(storage=url, study_name="theirs").add_trial(create_trial(value=1.0))
    with pytest.raises(ValueError, match='"theirs" in this storage was not begun by genaf_hf'):
        join(name="theirs")


def test_a_study_that_could_not_be_set_up_is_not_left_behind(join, url):
    with pytest.raises(TypeError, match="not JSON serializable"):
        join(settings={"eps": object()})
    assert optuna.get_all_study_names(url) == []


@pytest.mark.parametrize(
    ("storage", "sentence"),
    [
        ("study.db", r"The storage is no URL of a database; expected one such as sqlite:///study\.db"),
        ("redis://me:s3cret@host/0", r"no connection to redis://me:\*\*\*@host/0 .*check that its driver is installed"),
        ("postgresql://me:s3c@ret@host/db", "has an @ or a / in it: write them as %40"),
        ("postgresql://me:s3cret@host:port/db", "no URL of a database"),
        (
            "postgresql+psycopg://me:s3cret@127.0.0.1:1/db?password=s3cret",
            r"no connection to postgresql\+psycopg://me:\*\*\*@127\.0\.0\.1:1/db \(",
        ),
        ("postgresql://me:s3@cret/s3cret@host/db", r"has an @ or a / in it: write them as %40 and %2F"),
        ("mysql+nothing://me:s3cret@host/db", r"no connection to mysql\+nothing://me:\*\*\*@host/db"),
        ("sqlite:////nowhere/at/all/study.db", "no connection to sqlite:////nowhere/at/all/study.db"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused_without_its_password(storage, sentence):
    if storage.startswith("postgresql+"):
        pytest.importorskip("psycopg")
    with pytest.raises(ValueError, match=sentence) as refusal:
        open_storage(storage)
    assert "s3c" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no database " * 1000)
    with pytest.raises(ValueError, match=r"sqlite:///.*notes\.txt \(file is not a database\)"):
        open_storage(f"sqlite:///{tmp_path / 'notes.txt'}")


def test_a_storage_is_one_of_optuna(url):
    assert isinstance(open_storage(url), RDBStorage)


def test_draws_depend_on_the_number_of_a_trial_and_not_on_the_worker(tmp_path):
    drawn = []
    for workers in (1, 3):
        study = begin_or_join(
            open_storage(f"sqlite:///{tmp_path / f'{workers}.db'}"),
            "adapters",
            settings={},
            budget=WHOLE_BUDGET,
            known={},
            sampler=GenerationSampler(POPULATION, seed=0, whole=1000),
        )
        samplers = [GenerationSampler(POPULATION, seed=0, whole=1000) for _ in range(workers)]
        for number in range(WHOLE_BUDGET):
            study.sampler = samplers[number % workers]
            study.optimize(objective, n_trials=1)
        drawn.append([trial.params for trial in study.get_trials()])
    assert drawn[0] == drawn[1]
    assert len({tuple(params.values()) for params in drawn[0]}) > POPULATION


def test_parents_are_those_that_explain_the_genes():
    population = [
        create_trial(
            values=[0.0],
            params=genes,
            distributions=dict.fromkeys(genes, DIGIT),
        )
        for genes in ({"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 2, "c": 2}, {"a": 3, "b": 3, "c": 3})
    ]
    for number, trial in enumerate(population):
        trial.number = number
    found = [
        [(trial.number, genes) for trial, genes in parents(dict(zip("abc", genes, strict=True)), population)]
        for genes in ((2, 2, 3), (1, 1, 1), (3, 9, 9), (9, 9, 9))
    ]
    assert found == [[(1, 2), (2, 1)], [(0, 3)], [(2, 1)], []]
    assert parents({"a": 1}, []) == []


def test_those_that_add_the_most_volume_survive():
    values = [(0.9, 0.1, 10), (0.9, 0.5, 100), (0.88, 0.48, 110), (0.5, 0.9, 100), (0.9, 0.6, 1000)]
    trials = [create_trial(values=each) for each in values]
    chosen = survivors(trials, 3, whole=1000)
    assert [each.values for each in chosen] == [list(values[number]) for number in (1, 3, 0)]
    assert len(survivors(trials, 9, whole=1000)) == 5


def test_where_no_trial_adds_volume_the_next_best_survive():
    values = [(0.1, 0.05, 900), (0.12, 0.05, 900), (0.11, 0.04, 900), (0.9, 0.6, 100), (0.89, 0.59, 101), (0.8, 0, 10)]
    trials = [create_trial(values=each) for each in values]
    assert [each.values[0] for each in survivors(trials, 6, whole=1000)] == [0.9, 0.89, 0.12, 0.1, 0.11, 0.8]
    fragile = [create_trial(values=each) for each in [(0.5, 0.0, 10), (0.7, 0.0, 20), (0.7, 0.0, 10)]]
    assert survivors(fragile, 2, whole=1000) == [fragile[2], fragile[1]]


def test_of_twins_the_later_one_is_the_parent():
    population = [create_trial(values=[0.0], params={"a": 1}, distributions={"a": DIGIT}) for _ in range(3)]
    for number, trial in enumerate(population):
        trial.number = (4, 9, 7)[number]
    assert [trial.number for trial, _ in parents({"a": 1}, population)] == [9]


def test_a_broken_constraint_comes_after_all_that_keep_it():
    trials = [create_trial(values=(0.1, 0.1, 500)) for _ in range(2)]
    for excess in (5.0, 2.0):
        trials.append(create_trial(values=(0.9, 0.9, 10), system_attrs={"constraints:parameters": excess}))
    trials[0] = create_trial(values=(0.2, 0.1, 500), system_attrs={"constraints:parameters": -1.0})
    assert survivors(trials, 3, whole=1000) == [trials[0], trials[1], trials[3]]
