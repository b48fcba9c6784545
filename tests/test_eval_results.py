import pytest
import yaml
from cards import ENCODER, make_report
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from genaf_hf.evaluation.measurement import Measurement, WorstCase
from genaf_hf.sharing.eval_results import eval_results


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


def test_what_every_attack_leaves_is_a_result_where_there_are_several():
    cases = [WorstCase("hardened", "model", 4, 10), WorstCase("hardened", None, 3, 10)]
    *_, every = eval_results(make_report(worst_cases=cases), "hardened")
    assert (every.metric_type, every.metric_name) == ("robust_accuracy", "robust accuracy under every attack")
    assert every.metric_value == 0.3
    told = {name: every.metric_args.get(name) for name in ("attack", "knowledge", "correct", "count", "eps", "worst")}
    assert told == {
        "attack": "every attack",
        "knowledge": "any of these",
        "correct": 3,
        "count": 10,
        "eps": None,
        "worst": None,
    }
    one = make_report("hardened", measurements=make_report("hardened").measurements[:2], worst_cases=cases)
    assert [each.metric_args["attack"] for each in eval_results(one, "hardened")] == ["clean", "l4a"]


def test_a_result_points_to_its_report(results, tmp_path):
    make_report().save(tmp_path / "report.json")
    assert {each.metric_args["report_sha256"] for each in results} == {make_report().sha256}
    moved = eval_results(make_report(), "hardened", report_path="audit/report.json")
    assert {each.metric_args["report"] for each in moved} == {"audit/report.json"}


def test_surrogates_are_named_where_the_attacker_had_one(results):
    named = [(each.metric_args.get("surrogate"), each.metric_args.get("surrogate_revision")) for each in results]
    assert named == [(None, None), ("someone/encoder", ENCODER), (None, None), (None, None)]


def test_the_worst_of_each_knowledge_is_said_to_be(results):
    found = {each.metric_args["attack"]: each.metric_args.get("worst") for each in results}
    assert found == {"clean": None, "l4a": True, "l4a-adaptive": None, "pgd": True}
