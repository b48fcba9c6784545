import pytest
import yaml
from cards import ENCODER, IMAGES, make_report
from huggingface_hub import EvalResultEntry, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from genaf_hf.evaluation.report import Check, Measurement
from genaf_hf.sharing.eval_results import benchmark_yaml, eval_results, eval_results_yaml, task_id

TASKS = ["clean", "l4a-linf-10-255-50-steps", "l4a-adaptive-linf-10-255-50-steps", "pgd-linf-8-255-20-steps"]


@pytest.fixture
def results():
    return eval_results(make_report(), "hardened")


def test_results_survive_the_model_index(results):
    index = eval_results_to_model_index("someone/model", results)
    name, found = model_index_to_eval_results(yaml.safe_load(yaml.safe_dump(index)))
    assert (name, found) == ("someone/model", results)


def test_results_are_of_one_model_with_images():
    report = make_report()
    assert [each.metric_value for each in eval_results(report, "undefended")] == [0.9, 0.2, 0.1, 0.0]
    empty = make_report("hardened", measurements=[Measurement("hardened", "clean", "nothing", {}, 0, 0, 0)])
    assert eval_results(empty, "hardened") == []


def test_a_result_points_to_its_report(results, tmp_path):
    make_report().save(tmp_path / "report.json")
    assert {each.metric_args["report_sha256"] for each in results} == {make_report().sha256}
    moved = eval_results(make_report(), "hardened", report_path="audit/report.json")
    assert {each.metric_args["report"] for each in moved} == {"audit/report.json"}


def test_surrogates_are_named_where_the_attacker_had_one(results):
    named = [(each.metric_args.get("surrogate"), each.metric_args.get("surrogate_revision")) for each in results]
    assert named == [(None, None), ("someone/encoder", ENCODER), (None, None), (None, None)]


@pytest.mark.parametrize(
    ("conditions", "name"),
    [
        ({"attack": "clean"}, "clean"),
        ({"attack": "pgd", "norm": "linf", "eps": 8 / 255, "steps": 20}, "pgd-linf-8-255-20-steps"),
        ({"attack": "autoattack", "norm": "l2", "eps": 0.5}, "autoattack-l2-0.5"),
        ({"attack": "l4a", "norm": "linf", "eps": 0.31, "steps": 500}, "l4a-linf-0.31-500-steps"),
        ({"attack": "advencoder-pat", "norm": "linf", "eps": 1, "steps": 5}, "advencoder-pat-linf-1-5-steps"),
    ],
)
def test_task_ids(conditions, name):
    assert task_id(conditions) == name


def test_entries_are_read_by_the_hubs_own_parser():
    report = make_report(checks=[Check("hardened", "gradients are not zero", False, {})])
    text = eval_results_yaml(eval_results(report, "hardened"), "someone/bench")
    entries = parse_eval_result_entries(yaml.safe_load(text))
    assert [each.task_id for each in entries] == TASKS
    assert [each.value for each in entries] == [0.8, 0.7, 0.6, 0.5]
    assert entries[3] == EvalResultEntry(
        dataset_id="someone/bench",
        task_id="pgd-linf-8-255-20-steps",
        value=0.5,
        notes="UNRELIABLE, a self-check failed; 5 of 10 images, 95 % interval 0.237 to 0.763; the attacker knows: "
        f"model; report.json, SHA-256 {report.sha256}",
    )
    assert entries[0].notes.startswith("8 of 10 images, 95 % interval 0.490 to 0.943; the attacker knows: nothing;")


# ---- the benchmark ----


def test_a_dataset_becomes_a_benchmark(results):
    made = yaml.safe_load(benchmark_yaml(results))
    assert made["name"] == "Adversarial robustness on someone/colours"
    assert made["evaluation_framework"] == "genaf_hf"
    assert made["tasks"] == [{"id": name, "config": "default", "split": "test"} for name in TASKS]
    assert IMAGES not in str(made)


def test_tasks_are_added_once_and_what_is_there_stays(results):
    mine = {"id": "pgd-linf-8-255-20-steps", "config": "mine", "split": "other", "extra": [1]}
    existing = yaml.safe_dump({"name": "Mine", "owner": {"a": 1}, "tasks": [{"id": "theirs"}, mine]})
    merged = benchmark_yaml(results, existing)
    found = yaml.safe_load(merged)
    assert (found["name"], found["owner"]) == ("Mine", {"a": 1})
    assert found["tasks"][:2] == [{"id": "theirs"}, mine]
    assert [each["id"] for each in found["tasks"][2:]] == TASKS[:3]
    assert benchmark_yaml(results, merged) == merged


def test_nothing_is_rewritten_where_nothing_is_added(results):
    existing = "# mine\ntasks:\n" + "".join(f"  -   id: {name}\n" for name in TASKS)
    assert benchmark_yaml(results, existing) == existing


@pytest.mark.parametrize("existing", ["", "# nothing yet\n", "name: Mine\n", "tasks:\n"])
def test_a_benchmark_without_tasks_gets_them(results, existing):
    assert [each["id"] for each in yaml.safe_load(benchmark_yaml(results, existing))["tasks"]] == TASKS


@pytest.mark.parametrize("existing", ["tasks: [", "- a", "text", "tasks: 3", "tasks: [a]", "tasks: [{name: a}]"])
def test_a_broken_benchmark_is_refused(results, existing):
    with pytest.raises(ValueError, match=r"The benchmark's eval.yaml cannot be read, expected tasks with an id each\."):
        benchmark_yaml(results, existing)
