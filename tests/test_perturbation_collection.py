import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from genaf_hf import PixelModel, evaluate_robustness
from genaf_hf.attacks import UniversalPatch, UniversalPerturbation
from genaf_hf.data import with_pixel_values
from genaf_hf.errors import UserError
from genaf_hf.evaluation.threats import attacks_of
from genaf_hf.pipelines.audit import audit
from genaf_hf.pipelines.perturbation_collection import collected, fitting

DELTA = 0.1 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)).sign()


def of_x_transfer(folder, tensors, **settings):
    """What `PyTorchModelHubMixin` writes."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings))


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "many"
    UniversalPerturbation(DELTA, attack="l4a", eps=0.1, encoder="someone/encoder").save_pretrained(folder / "ours/l4a")
    torch.save(DELTA[None], folder / "published.pt")
    of_x_transfer(folder / "linf", {"delta": 2 * DELTA[None]}, epsilon=0.15, image_size=8, target_text=None)
    of_x_transfer(folder / "l2", {"delta_param": DELTA[None]}, image_size=8, target_text="a dog")
    (folder / "README.md").write_text("Perturbations.")
    return folder


def test_all_kinds_of_files_are_read(collection):
    found = collected(str(collection))
    assert [*found] == ["l2", "linf", "ours-l4a", "published"]
    assert found["ours-l4a"].encoder == "someone/encoder"
    for name in ("ours-l4a", "published"):
        assert torch.equal(found[name].delta, DELTA)
    # As that benchmark applies them: clipped to epsilon, and the hyperbolic tangent of the parameter.
    torch.testing.assert_close(found["linf"].delta, 0.15 * DELTA.sign())
    assert (found["linf"].attack, found["linf"].eps, found["linf"].norm) == ("x-transfer", 0.15, "linf")
    torch.testing.assert_close(found["l2"].delta, DELTA.tanh())
    assert (found["l2"].norm, found["l2"].objective) == ("l2", 'towards the text "a dog"')
    assert found["l2"].eps == pytest.approx(DELTA.tanh().norm().item())
    assert [*collected(str(collection / "ours/l4a"))] == ["l4a"]


class Code:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda folder: torch.save(Code(), folder / "evil.pt"),
            "evil.pt is not a published universal perturbation: it is broken, or holds more than tensors; expected a",
        ),
        (
            lambda folder: (folder / "notes.pt").write_text("hello"),
            "notes.pt is not a published universal perturbation: it is broken, or holds more than tensors; expected a",
        ),
        (
            lambda folder: of_x_transfer(folder / "vit", {f"layer.{i}": DELTA.clone() for i in range(90)}),
            r'it holds "layer.0", .* and 85 more, expected delta with an .*: take it out of the collection, or save',
        ),
        (lambda folder: torch.save({"w": DELTA}, folder / "weights.pt"), "weights.pt is not .*: it holds a dict"),
        (lambda folder: save_file({"w": DELTA}, folder / "model.safetensors"), "model.safetensors is no universal"),
        (
            lambda folder: of_x_transfer(folder / "advclip", {"uap": DELTA[None], "delta": 2 * DELTA[None]}, epsilon=1),
            'it holds "delta", "uap", expected delta with an epsilon, or delta_param',
        ),
        (
            lambda folder: of_x_transfer(folder / "odd", {"delta": DELTA[None]}, epsilon="much"),
            "expected delta with an epsilon",
        ),
        (lambda folder: (folder / "ours/l4a/perturbation.safetensors").write_bytes(b"0"), "is not a universal pertur"),
    ],
)
def test_a_file_that_is_none_is_named_and_nothing_in_it_is_run(collection, spoil, sentence, capsys):
    spoil(collection)
    with pytest.raises(UserError, match=sentence) as refusal:
        collected(str(collection))
    assert "\n" not in str(refusal.value)
    assert capsys.readouterr().out == ""


def test_an_empty_collection_and_none_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match='The collection "empty" holds 0 files'):
        collected(str(tmp_path / "empty"))
    with pytest.raises(UserError, match='There is no collection of perturbations "nobody/nothing"'):
        collected("nobody/nothing")


def test_perturbations_beside_a_model_are_found(collection, encoders):
    shutil.copytree(encoders["dino"], collection, dirs_exist_ok=True)
    (collection / "checkpoint-3").mkdir()
    torch.save({"state": {}, "param_groups": []}, collection / "checkpoint-3/optimizer.pt")
    shutil.copy(collection / "model.safetensors", collection / "checkpoint-3/adapter_model.safetensors")
    assert (collection / "model.safetensors").exists()
    assert [*collected(str(collection))] == ["l2", "linf", "ours-l4a", "published"]
    with pytest.raises(UserError, match="holds 0 files"):
        collected(encoders["dino"])


def test_what_is_not_read_is_told(collection, tmp_path, caplog):
    (collection / "theirs.npy").write_bytes(b"0")
    assert "theirs" not in collected(str(collection))
    assert '": "theirs.npy"; perturbations end in .safetensors or .pt' in caplog.text
    (tmp_path / "other").mkdir()
    (tmp_path / "other/theirs.npy").write_bytes(b"0")
    with pytest.raises(UserError, match=r'holds 0 files .*, and "theirs.npy", which can be none here, expected'):
        collected(str(tmp_path / "other"))
    with pytest.raises(UserError, match=r'theirs.npy" is a file, expected a folder of perturbations: name .*other'):
        collected(str(tmp_path / "other/theirs.npy"))


def test_a_tensor_alone_is_refused():
    with pytest.raises(UserError, match='The perturbation "mine" is a Tensor, expected a UniversalPerturbation'):
        fitting({"mine": DELTA}, (8, 8), resized=False)


def test_two_files_of_one_name_are_refused(collection):
    torch.save(DELTA, collection / "ours-l4a.pt")
    with pytest.raises(UserError, match=r'l4a.* would be "ours-l4a" in a report, as another file'):
        collected(str(collection))


def test_of_another_size_they_are_resized_on_request_alone(collection):
    patch = UniversalPatch(torch.rand(3, 2, 2), attack="advencoder-pat", eps=1.0)
    whole = collected(str(collection))
    assert fitting(whole, (8, 8), resized=False) == whole
    found = {**whole, "patch": patch}
    with pytest.raises(UserError, match=r'"l2" is of 8 x 8 pixels, the model takes images of 16 x 16: .*--resize_pert'):
        fitting(found, (16, 16), resized=False)
    with pytest.raises(UserError, match=r'"large" cannot be used: A patch of 9 x 9 pixels .*does not fit'):
        fitting({"large": UniversalPatch(torch.rand(3, 9, 9), "large", eps=1.0)}, (8, 8), resized=False)
    resized = fitting(found, (16, 16), resized=True)
    assert {each.delta.shape[1:] for name, each in resized.items() if name != "patch"} == {(16, 16)}
    assert resized["linf"].resized_from == "8 x 8"
    assert resized["patch"].delta is patch.delta
    assert resized["patch"].area == 4 / 256  # which a leaderboard tells patches apart by


@pytest.mark.slow(reason="audits")
def test_an_audit_attacks_with_them_and_says_what_their_attacker_knows(collection, vit, dataset, tmp_path):
    model = PixelModel(*vit)
    report = audit(model, dataset, ["fgsm"], perturbations=str(collection), output_dir=tmp_path / "out")
    names = [f"{name}-at-hand" for name in ("l2", "linf", "ours-l4a", "published")]
    assert report.attacks == ["clean", *names, "fgsm"]
    known = {name: report.measurement(next(iter(report.models)), name) for name in names}
    assert {each.knowledge for each in known.values()} == {"perturbation at hand"}
    assert known["l2-at-hand"].settings["norm"] == "l2"
    assert all(each.noise_correct is not None for each in known.values())
    expected = evaluate_robustness(
        {"m": model},
        with_pixel_values(dataset["test"], model.processor),
        {"published": UniversalPerturbation(DELTA, attack="published", eps=0.1)},
    ).measurement("m", "published")
    assert known["published-at-hand"].correct == expected.correct
    kept = UniversalPerturbation.from_pretrained(tmp_path / "out/perturbations/published-at-hand")
    assert torch.equal(kept.delta, DELTA)
    with pytest.raises(UserError, match='The perturbation "l2-at-hand" was at hand'):
        attacks_of(report)
