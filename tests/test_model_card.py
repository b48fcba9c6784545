"""What a card says, and that its code runs as it is written."""

import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cards import ENCODER, IMAGES, L4A, PGD, blocks, card_of, make_record, make_report, text_of
from conftest import CLASSES
from markdown_it import MarkdownIt
from transformers import HfArgumentParser

from genaf_hf import load_encoder
from genaf_hf.attacks import ATTACKS
from genaf_hf.evaluation.measurement import Check, Measurement, WorstCase
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.pipelines.audit_arguments import AuditArguments
from genaf_hf.sharing.layout import PICTURES, RESULT_PICTURES
from genaf_hf.sharing.model_card import findings, model_card
from genaf_hf.sharing.record import balance_table
from genaf_hf.training.defences import DEFENCES

FAILED = Check("hardened", "gradients are not zero", False, {"images without a gradient": 10})


def verdict_of(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(("This model", "Nothing was")))


# ---- what it says ----


def test_the_verdict_is_one_sentence_with_the_worst_of_each_kind():
    assert verdict_of(text_of()) == (
        "This model is right about 80.0% [49.0%, 94.3%] of clean images (undefended: 90.0%), 70.0% [39.7%, 89.2%] "
        "under the worst perturbation that was crafted on the public encoder alone (l4a, linf, eps 10/255; undefended: "
        "20.0%), and 50.0% [23.7%, 76.3%] under the worst attack on the model itself (pgd, linf, eps 8/255; "
        "undefended: 0.0%); guessing is right about 33.3%."
    )


def test_the_verdict_ends_with_what_every_attack_together_leaves():
    text = text_of(worst_cases=[WorstCase("undefended", None, 0, 10), WorstCase("hardened", None, 4, 10)])
    assert verdict_of(text).endswith(
        "(pgd, linf, eps 8/255; undefended: 0.0%), and 40.0% [16.8%, 68.7%] under every attack, each image under its "
        "worst (undefended: 0.0%); guessing is right about 33.3%."
    )
    assert "| every attack | any of these   |" in text
    assert "Under *every attack* are the images that stay right" in text
    assert "every attack" not in text_of()


def test_the_verdict_on_one_model_and_without_some_kinds_of_attack():
    measured = make_report("hardened").measurements
    assert (
        verdict_of(text_of("hardened", measurements=measured[:1]))
        == "This model is right about 80.0% [49.0%, 94.3%] of clean images; guessing is right about 33.3%."
    )
    assert verdict_of(text_of("hardened", measurements=[measured[0], measured[3]])) == (
        "This model is right about 80.0% [49.0%, 94.3%] of clean images, and 50.0% [23.7%, 76.3%] under the worst "
        "attack on the model itself (pgd, linf, eps 8/255); guessing is right about 33.3%."
    )
    assert verdict_of(text_of("hardened", measurements=measured[3:])) == (
        "This model is right about 50.0% [23.7%, 76.3%] under the worst attack on the model itself (pgd, linf, eps "
        "8/255); guessing is right about 33.3%."
    )
    nothing = [Measurement("hardened", "clean", "nothing", {}, 0, 0, 0)]
    assert verdict_of(text_of("hardened", measurements=nothing)) == "Nothing was measured of this model."


def test_whoever_sees_the_models_answers_alone_attacks_it_too():
    clean, *_, pgd = make_report("hardened").measurements
    square = replace(pgd, attack="square", knowledge="model's answers", correct=4, fooled=4, changed=4)
    text = text_of("hardened", measurements=[clean, pgd, square])
    assert verdict_of(text) == (
        "This model is right about 80.0% [49.0%, 94.3%] of clean images, 40.0% [16.8%, 68.7%] under the worst attack "
        "that asks the model for its answers alone (square, linf, eps 8/255), and 50.0% [23.7%, 76.3%] under the worst "
        "attack on the model itself (pgd, linf, eps 8/255); guessing is right about 33.3%."
    )
    answers = text.split("**Whoever gets the answers of this model**")[1].split("- **Whoever")[0]
    assert "  - square: linf, eps 8/255.\n" in answers
    assert "- pgd" not in answers


def test_what_attackers_know_in_words_of_their_own_is_told_too():
    clean, *_, pgd = make_report("hardened").measurements
    text = text_of("hardened", measurements=[clean, replace(pgd, knowledge="*the* logs")])
    assert "under the worst attack by whoever knows \\*the\\* logs (pgd, linf, eps 8/255)" in verdict_of(text)
    assert "- **Whoever knows this**: \\*the\\* logs.\n  - pgd: linf, eps 8/255.\n" in text


def test_unreliable_accuracies_are_marked_in_verdict_and_table():
    text = text_of(checks=[FAILED, replace(FAILED, model="undefended", passed=True)])
    assert "80.0% [49.0%, 94.3%] of clean images (undefended: 90.0%), 70.0% *unreliable* [39.7%" in verdict_of(text)
    assert "50.0% *unreliable* [23.7%, 76.3%] under" in verdict_of(text)
    assert "| 50.0% [23.7%, 76.3%] (5/10) *worst* *unreliable* |" in text
    assert "80.0% [49.0%, 94.3%] (8/10) *unreliable*" not in text
    assert "**The robust accuracies of hardened are *unreliable*:** FAILED: gradients are not zero (images" in text
    assert "Every check was passed." not in text
    of_other = text_of(checks=[replace(FAILED, model="undefended"), replace(FAILED, passed=True)])
    assert "(l4a, linf, eps 10/255; undefended: 20.0% *unreliable*)" in verdict_of(of_other)


def test_what_is_in_doubt_stands_above_the_verdict():
    def above(**changes) -> list[str]:
        text = text_of(**changes)
        return [line for line in text[: text.index("This model is right")].splitlines() if line.startswith("**")]

    few = "**Only 10 images were measured: the intervals are wide, and differences within them say nothing.**"
    assert above() == [few]
    assert above(checks=[FAILED, replace(FAILED, name="its | answers <differ>")]) == [
        "**The robust accuracies of this model are *unreliable*, it failed self-checks: gradients are not zero; "
        "its \\| answers &lt;differ&gt;.**",
        few,
    ]
    assert above(checks=[replace(FAILED, model="undefended")])[0].endswith("can be trusted was not checked.**")
    many = [replace(each, count=100, correct=10 * each.correct) for each in make_report().measurements]
    assert above(measurements=many) == []
    record = make_record()
    record = replace(record, data={**record.data, "tested_and_trained_on": 4})
    assert above(measurements=many, record=record) == [
        "**4 of 10 test images are among those that it was trained on, too: accuracies on these say nothing.**",
    ]


def test_an_accuracy_like_that_of_guessing_is_said_first_and_attack_success_is_marked():
    collapsed = [
        Measurement("hardened", "clean", "nothing", {}, 120, 570, 120),
        Measurement("hardened", "pgd", "model", PGD, 120, 570, 120, fooled=0),
    ]
    models = {"hardened": {"class": "ViTForImageClassification", "classes": 5}}
    text = text_of(measurements=collapsed, models=models, checks=[FAILED])
    assert "**Its clean accuracy cannot be told from guessing, which is right about 20.0%.**" in text
    assert verdict_of(text).startswith("This model is right about 21.1% [17.9%, 24.6%] of clean images")
    assert "| 0.0% [0.0%, 3.1%] (0/120) *unreliable* |" in text
    worse = [replace(each, correct=60, clean_correct=60) for each in collapsed]
    assert "**It is right less often than guessing, which is right about 20.0%: are its" in text_of(
        measurements=worse, models=models, checks=[FAILED]
    )
    uneven = {**make_report().dataset, "count": 570, "largest_class": 114 + 57}
    assert verdict_of(text_of(measurements=collapsed, models=models, dataset=uneven)).endswith("about 30.0%.")


def test_the_card_says_whether_the_numbers_can_be_trusted():
    trusted, unchecked = text_of(), text_of(checks=[])
    assert "Every check was passed." in trusted
    assert "- hardened, passed: gradients are not zero (images without a gradient 0)" in trusted
    assert "*unreliable*" not in trusted
    assert "That was not checked." in unchecked
    assert "passed" not in unchecked


def test_the_threat_model_names_who_attacks_with_what():
    text = text_of()
    public, adaptive = text.split("**Whoever has the public encoder**")[1].split("**Whoever has this very model**")
    assert (
        "  - l4a: linf, eps 10/255, crafted on someone/encoder; data: 48 images of someone/colours, split train, "
        "without labels.\n"
    ) in public
    assert "  - l4a-adaptive: linf, eps 10/255, crafted on hardened; data" in adaptive
    assert "  - pgd: linf, eps 8/255.\n" in adaptive
    measured = make_report("hardened").measurements
    assert "public encoder**" not in text_of("hardened", measurements=[measured[0], measured[3]])
    assert "very model**" not in text_of("hardened", measurements=measured[:2])
    assert "No attack was measured." in text_of("hardened", measurements=measured[:1])


def test_other_norms_patches_and_surrogates_without_a_name():
    patch = {**L4A, "attack": "advencoder-pat", "eps": 1, "top": None, "left": None, "area": 0.03}
    measured = [
        make_report("hardened").measurements[0],
        Measurement("hardened", "advencoder-pat", "public encoder", patch, 1, 10, 8),
        Measurement("hardened", "uap", "public encoder", {**L4A, "encoder": None, "encoder_revision": None}, 2, 10, 8),
        Measurement("hardened", "pgd", "model", {**PGD, "norm": "l2", "eps": 0.5}, 4, 10, 8),
    ]
    text = text_of("hardened", measurements=measured)
    assert "  - advencoder-pat: patch, 3% of the image, crafted on someone/encoder; data" in text
    assert "| advencoder-pat | public encoder | patch | 3% of the image | 50    |" in text
    assert "(advencoder-pat, patch, 3% of the image" in text
    assert "levels. Under a patch any pixel may become any other.\n" in text
    assert "  - uap: linf, eps 10/255; data" in text
    assert "  - pgd: l2, eps 0.5.\n" in text
    assert "| pgd            | model          | l2    | 0.5             | 20    |" in text
    assert "    eps=0.0392156862745098,\n" in text  # of the l-inf attack that is no patch
    without = text_of("hardened", measurements=[measured[0], measured[2]])
    assert "None" not in without.replace("dataset_config_name=None", "")
    assert "--attacks pgd,square" in without


def test_what_was_trained_is_told_with_its_sources():
    text = text_of(record=make_record(), pictures=list(PICTURES))
    assert "was hardened with Gen-AF" in text
    assert f"Base model: someone/encoder, commit {ENCODER}, license: mit.\n\n## Threat model" in text
    assert (
        f"Images: someone/colours, commit {IMAGES}; train 48, validation 12, test 10.\n3 classes: red, green, blue."
        in text
    )
    assert "| adversarial finetune | 2 | 1.0 | 62 |\n| adapt | 1 | 0.2 | - |" in text
    assert "| eps | 0.1 |\n| steps | 2 |\n| step\\_size | 0.125 |" in text
    assert "</details>" not in text[text.index("| eps | 0.1 |") :]
    assert blocks(text, "bash")[-1] == f"{make_record().command}\n"
    pictures = re.findall(r"!\[.+\]\((.+)\)", text)
    assert sorted(pictures) == sorted(PICTURES)
    of_results = [text.index(f"({name})") < text.index("## How it was trained") for name in PICTURES]
    assert of_results == [name in RESULT_PICTURES for name in PICTURES]
    assert text.index("3 classes: red") < text.index("(samples.png)") < text.index("Stage 1 fine-tunes")


def test_all_settings_stand_folded_behind_those_that_were_changed():
    text = text_of(record=make_record(defaults={"optim": "adamw_torch", "eps": 0.2}))
    changed, everything = text.split("<summary>All settings</summary>")
    assert "| optim | adamw\\_torch |" in everything.split("</details>")[0]
    assert "optim" not in changed
    assert everything.count("| eps | 0.1 |") == changed.count("| eps | 0.1 |") == 1
    assert "eps | 0.2" not in text


def test_what_is_not_known_of_the_training_is_not_claimed():
    history = make_record().history
    bare = text_of(
        record=make_record(base_model={"name": None, "revision": None, "license": None}, data={}, command=None)
    )
    assert "The base model is not known." in bare
    assert "None" not in bare.replace("dataset_config_name=None", "")
    local = text_of(record=make_record(base_model={"name": "enc", "license": None}))
    assert "Base model: enc, a local one, license: not known." in local
    first = text_of(record=make_record(history=history[:3], hyperparameters={"genetic_weight": 0.0}))
    assert "Stage 1 fine-tunes all weights on adversarial images.\n" in first
    assert "All settings are the defaults of `GenAFConfig`." in text_of(record=make_record(hyperparameters={}))
    undefended = make_record(history=[{"stage": "standard_finetune", "step": 3, "epoch": 1.0}])
    card = card_of(record=undefended)
    assert "fine-tuned on clean images, without any defence" in card.text
    probe = text_of(record=make_record(history=[{"stage": "linear_probe", "step": 3, "epoch": 1.0}]))
    assert "fine-tuned on clean images, its head alone, without any defence" in probe
    assert "Gen-AF" not in card.text
    assert card.data.tags == ["adversarial-robustness"]
    adapted = make_record(history=[{"stage": "standard_finetune", "step": 3, "epoch": 1.0}, history[-1]])
    assert "fine-tuned on clean images, without any defence" in text_of(record=adapted)
    assert card_of(record=adapted).data.tags == card_of(record=make_record(history=[])).data.tags == card.data.tags
    audited = text_of()
    assert "How it was trained is no part of an audit." in audited
    assert "## How it was trained" not in audited


NOT_WITHSTOOD = "**Perturbations for one image alone, such as PGD's, are not what it was trained on"


def test_known_enemies_are_told_from_others_and_what_a_defence_is_not_for_stands_first():
    bank = DEFENCES["universal"].configure(bank=["l4a"]).record()
    text = text_of(record=make_record(defence=bank))
    assert NOT_WITHSTOOD in text.split("## Threat model")[0]
    assert "All that was crafted on the public encoder (l4a) is of kinds that it was trained on." in text
    assert text.count(", of a kind that the model was trained on") == 2  # as it is, and adaptive
    other = text_of(record=make_record(defence={**bank, "settings": {**bank["settings"], "bank": ["ssp"]}}))
    assert ", of a kind that the model was trained on" not in other
    assert "of kinds that it was trained on" not in other
    report = make_report()
    report = replace(report, measurements=[*report.measurements, *others(report)])
    several = model_card(report, make_record(defence=bank), model_name="tiny").text
    assert "l4a are of kinds that it was trained on; the worst of the others (std, linf, eps 10/255) leaves 60.0%" in (
        several
    )
    gen_af = text_of(record=make_record())
    assert NOT_WITHSTOOD not in gen_af
    assert gen_af.count(", of a kind that the model was trained on") == 1  # pgd
    assert NOT_WITHSTOOD not in text_of()


def others(report):
    """An attack that is weaker than another, for each model."""
    return [
        replace(each, attack=name, settings={**each.settings, "attack": name}, correct=correct)
        for each in report.measurements
        if each.attack == "l4a"
        for name, correct in (("std", 6), ("uap", 9))
    ]


def test_a_classifier_from_a_hardened_encoder_says_so():
    base = {**make_record().base_model, "hardened": True}
    plain = make_record(base_model=base, history=[{"stage": "standard_finetune", "step": 3, "epoch": 1.0}])
    text = text_of(record=plain)
    assert "without any defence, from an encoder that was hardened before." in text
    assert "license: mit. It was hardened before, as its card says." in text
    assert card_of(record=plain).data.tags == card_of(record=make_record()).data.tags


def test_a_model_of_the_adapter_search_is_told_for_what_it_is():
    history = [{"stage": "adversarial_finetune_of_adapter", "step": 3, "epoch": 1.0}]
    child = text_of(record=make_record(history=history, hyperparameters={"method": "lora", "parents": [3, 1]}))
    assert "by `genaf_hf` with Gen-AF (Zhou et al., IEEE S&amp;P 2024): adapters" in child
    assert "adapters in the encoder, and its head." in child
    assert "Training started from what trials 3 and 1 of the search had ended with" in child
    head = text_of(record=make_record(history=history, hyperparameters={"method": "head", "parents": []}))
    assert "its head alone." in head
    assert "the encoder is the public one" in head
    for text in (child, head):
        assert "encoder was hardened" not in text
    for claim in ("adapters", "Training started"):
        assert claim not in head


def test_a_class_of_our_own_is_loaded_with_its_code():
    models = {"hardened": {"class": "EncoderForImageClassification", "parameters": 7, "classes": 3}}
    text = text_of("hardened", models=models)
    assert 'model="someone/hardened", trust_remote_code=True)' in text
    assert "Nothing of `genaf_hf` is needed" not in text
    assert "trust_remote_code" not in text_of()


def test_an_adapter_is_told_for_what_it_is_and_loaded_with_its_classes():
    models = {"hardened": {"class": "PeftModelForImageClassification", "source": "someone/encoder", "classes": 3}}
    card = card_of("hardened", models=models, record=make_record())
    assert card.data.library_name == "peft"
    assert "Stage 1 fine-tunes the adapter, and what else of the model it saves, on adversarial images" in card.text
    [code] = [each for each in blocks(card.text, "python") if "PeftModel" in each]
    compile(code, "card", "exec")
    assert 'AutoImageProcessor.from_pretrained("someone/hardened")' in code
    names = {}
    exec(code[code.index("labels =") : code.index("base =")], names)
    assert names["labels"] == make_record().data["class_names"]
    assert "id2label=dict(enumerate(labels))" in code
    assert "num_labels=3," in text_of("hardened", models=models, record=None)


@pytest.mark.parametrize(
    ("kind", "packages"),
    [
        ("ViTForImageClassification", "transformers torch pillow"),
        ("TimmWrapperForImageClassification", "transformers torch pillow timm torchvision"),
        ("PeftModel", "transformers torch pillow peft"),
    ],
)
def test_what_is_to_be_installed_is_told(kind, packages):
    text = text_of("hardened", models={"hardened": {"class": kind, "source": "someone/encoder", "classes": 3}})
    assert f"`pip install {packages}`" in text


def test_the_answer_to_an_image_beside_the_model_is_told():
    example = {"label": "a *red* one", "answer": "blue", "probability": 0.98765}
    text = text_of(record=make_record(example=example))
    assert (
        "To [`example.png`](example.png), which lies beside it and shows a \\*red\\* one, it answers blue with a "
        "probability of 98.8 %.\n"
    ) in text
    assert "example.png" not in text_of(record=make_record())


def test_many_classes_are_not_all_listed():
    names = [f"class{i}" for i in range(21)]
    text = text_of(record=make_record(data={**make_record().data, "class_names": names}))
    assert "21 classes: class0, class1, " in text
    assert "class19, ...." in text
    assert "class20" not in text


def test_sizes_and_class_balance_are_a_table():
    table = (
        "| split      | images | classes | smallest class | largest class |\n"
        "|------------|--------|---------|----------------|---------------|\n"
        "| train      | 48     | 3       | blue (12)      | red (20)      |\n"
        "| validation | 12     | 3       | red (4)        | red (4)       |\n"
        "| test       | 10     | 1       | green (0)      | red (10)      |\n"
    )
    text = text_of(record=make_record())
    assert table in text
    assert balance_table(make_record().data) == table.rstrip()
    data = {name: value for name, value in make_record().data.items() if name != "class_counts"}
    old = text_of(record=make_record(data=data))
    assert old == text.replace(f"{table}\nEach class is followed by the number of its images.\n\n", "")


# ---- citations ----


def test_each_attack_is_cited_by_its_family_and_the_defence_where_it_was_used():
    gen_af = DEFENCES["gen-af"].configure().record()
    keys = [
        re.search(r"{(\w+),", each)[1]
        for each in {gen_af["citation"], *(attack.citation for attack in ATTACKS.values())}
    ]
    assert len(set(keys)) == len(keys)
    [audited] = blocks(text_of(), "bibtex")
    [hardened] = blocks(text_of(record=make_record(defence=gen_af)), "bibtex")
    assert re.findall(r"@inproceedings{(\w+),", audited) == ["ban2022pap", "madry2018pgd"]
    assert re.findall(r"@inproceedings{(\w+),", hardened) == ["zhou2024genaf", "ban2022pap", "madry2018pgd"]
    assert audited.count("{") == audited.count("}")
    assert blocks(text_of("hardened", measurements=make_report("hardened").measurements[:1]), "bibtex") == []


def test_the_same_report_gives_the_same_card():
    given = {"record": make_record(), "pictures": list(PICTURES)}
    assert str(card_of(**given)) == str(card_of(**given))
    again = RobustnessReport.from_json(make_report().to_json())
    assert str(model_card(again, model_name="a/b")) == str(model_card(make_report(), model_name="a/b"))


# ---- code that runs as written ----


@pytest.fixture
def given(tmp_path, dataset, encoders) -> Path:
    """A folder with a classifier of its own name, its encoder and its images."""
    for part in load_encoder(encoders["dino"], CLASSES):
        part.save_pretrained(tmp_path / "tiny")
    shutil.copytree(encoders["dino"], tmp_path / "encoder")
    dataset.save_to_disk(tmp_path / "colours")
    return tmp_path


def test_the_code_runs_as_written(processes, given):
    images = {"name": "colours", "config": None, "revision": None, "split": "test", "count": 18}
    measured = [replace(each, settings={**each.settings, "encoder": "encoder"}) if "encoder" in each.settings else each
                for each in make_report("hardened").measurements]  # fmt: skip
    report = make_report("hardened", dataset=images, measurements=measured)
    text = model_card(report, make_record(), model_name="tiny").text
    code = "\n".join(blocks(text, "python"))
    assert code.count("import") == 3
    picture = "from datasets import load_from_disk\nprint(classify(load_from_disk('colours')['test'][0]['image']))"
    command = [sys.executable, "-c", f"{code}\n{picture}"]
    done = processes.run(command, cwd=given)
    assert done.returncode == 0, done.stderr
    assert "| pgd    | model          | linf | 8/255 | 20    |" in done.stdout
    assert "'label': 'red'" in done.stdout


@pytest.mark.parametrize("attacked", [4, 1])
def test_the_command_is_one_of_ours(attacked):
    text = text_of("hardened", measurements=make_report("hardened").measurements[:attacked])
    program, command, *flags = shlex.split(blocks(text, "bash")[0])
    assert (program, command) == ("genaf-hf", "audit")
    (arguments,) = HfArgumentParser((AuditArguments,)).parse_args_into_dataclasses(flags)
    assert (arguments.model_name_or_path, arguments.dataset_name) == ("someone/hardened", "someone/colours")
    assert arguments.dataset_revision == IMAGES
    expected = ("someone/encoder", ENCODER, None) if attacked > 1 else (None, None, "pgd,square")
    assert (arguments.encoder, arguments.encoder_revision, arguments.attacks) == expected


@pytest.mark.parametrize(("split", "named"), [("test", False), ("validation", True), ("test[10% held out]", False)])
def test_the_commands_name_the_split_that_was_measured(split, named):
    text = text_of(dataset={**make_report().dataset, "split": split})
    assert f"--test_split {split} " in text or not named
    assert text.count("test_split") == 2 * named


# ---- the part for a card that is there ----


def test_findings_are_a_section_that_points_to_its_folder():
    text = findings(make_report("hardened"), model_name="someone/model", pictures=["gallery.png"], folder="audit")
    assert text.startswith("## Adversarial robustness\n\n**Only 10 images were measured")
    assert verdict_of(text).startswith("This model is right about 80.0% [49.0%, 94.3%] of clean images")
    assert "](audit/gallery.png)" in text
    assert "[`audit/report.json`](audit/report.json)" in text
    assert [each.tag for each in MarkdownIt().parse(text) if each.type == "heading_open"].count("h2") == 1
    assert "How it was trained" not in text
