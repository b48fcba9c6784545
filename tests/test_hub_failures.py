"""What the Hub refuses or fails at, with the real clients against a local Hub."""

import json
import re
import shlex
import shutil
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest
from cards import make_report
from hub_user import TOKEN, run_as_user, run_several
from local_hub import Fault, LocalHub
from processes import free_port

from genaf_hf.evaluation.measurement import Check
from genaf_hf.sharing.publishing import message_of
from genaf_hf.training.defences import DEFENCES

pytestmark = pytest.mark.usefixtures("quick_checks")

RECIPE = Path(__file__).parents[1] / "recipes" / "genaf_vit.py"
WAITS = [2, 8, 32]
LATER = timedelta(seconds=250)

MISSING = (
    'There is no {kind} "{id}", neither as a local folder nor on the Hub: check its spelling, and log in with '
    "`hf auth login` if it is private."
)
GATED = 'The {kind} "{id}" is gated: accept its conditions on {page} and log in with `hf auth login`.'
UNANSWERED = "the Hub cannot be reached or does not answer as it should, try again later"
STRANGE = "its answer is not what was expected"
DENIED = "the Hub denies this to your token, use one that has the right to it"
UNKNOWN_TOKEN = "the Hub does not accept your token, log in with `hf auth login` or correct HF_TOKEN"

# What is asked for, and what is said then.
NOT_LOADED = {
    "unknown": ({"repo_id": "someone/nothing"}, MISSING),
    "unknown, logged out": ({"repo_id": "someone/nothing", "token": False}, MISSING),
    "private": ({"repo_id": "other/private"}, MISSING),
    "private, logged out": ({"repo_id": "other/private", "token": False}, MISSING),
    "gated": ({"repo_id": "other/gated"}, GATED),
    "gated, logged out": ({"repo_id": "other/gated", "token": False}, GATED),
    "unknown revision": (
        {"repo_id": "other/public", "revision": "nowhere"},
        'The {kind} "{id}" has no revision "nowhere": choose a branch, tag or commit of {page}.',
    ),
    "wrong token": (
        {"repo_id": "other/public", "token": "hf_wrong"},
        f'The {{kind}} "{{id}}" cannot be loaded: {UNKNOWN_TOKEN} (401, Invalid credentials in Authorization header).',
    ),
    "no token": (
        {"repo_id": "other/public", "token": "hf_secret\n"},
        'The {kind} "{id}" cannot be loaded: your token has characters that no token has, correct it, HF_TOKEN or what '
        "`hf auth login` was given.",
    ),
    "denied": ({"repo_id": "other/denied"}, f'The {{kind}} "{{id}}" cannot be loaded: {DENIED} (403).'),
    "asked too often": (
        {"repo_id": "other/busy"},
        'The {kind} "{id}" cannot be loaded: the Hub was asked too often, try again later (429, in 3 s).',
    ),
    "failing": (
        {"repo_id": "other/failing"},
        'The {kind} "{id}" cannot be loaded: the Hub fails, try again later (500).',
    ),
    "dropped": (
        {"repo_id": "other/dropped"},
        f'The {{kind}} "{{id}}" cannot be loaded: {UNANSWERED} (Server disconnected without sending a response).',
    ),
}
KINDS = {"encoder": "model", "classifier": "model", "images": "dataset"}

LOAD = """
import json, sys
from pathlib import Path
from genaf_hf import GenAFConfig, load_encoder, load_images
from genaf_hf.models.loading import load_classifier
from genaf_hf.sharing.publishing import open_result

loaders = {
    "encoder": lambda repo_id, **settings: load_encoder(repo_id, ["a", "b"], **settings),
    "classifier": load_classifier,
    "images": load_images,
    "repository": lambda repo_id, token=None: open_result(
        Path("gone"), GenAFConfig("gone", push_to_hub=True, hub_model_id=repo_id, hub_token=token, use_cpu=True)
    ),
}
messages = {}
for name, (kind, settings) in json.loads(sys.argv[1]).items():
    try:
        messages[name] = f"{loaders[kind](settings.pop('repo_id'), **settings)} was loaded"
    except ValueError as error:
        messages[name] = str(error)
print(json.dumps(messages))
"""

# What goes wrong with the pushes to a repository, how long the client waits, and what it says in the end if anything.
COMMIT = "POST /api/models/someone/{name}/commit/main"
PUSHED = {
    "restless": (
        [
            Fault("POST /api/repos/create", 503, times=1),
            Fault("POST /api/validate-yaml", 502, times=1),
            Fault("POST /api/validate-yaml", delay=2, times=1),
        ],
        WAITS,
        None,
    ),
    "failing": ([Fault(COMMIT, 500)], WAITS, "the Hub fails, try again later (500)"),
    "failing-twice": ([Fault(COMMIT, 500, times=2)], WAITS[:2], None),
    "busy": ([Fault(COMMIT, 429, {"Retry-After": "7"}, times=1)], [7], None),
    "busy-until": (
        [Fault(COMMIT, 429, {"Retry-After": "{later}"}, times=1)],
        [LATER.total_seconds()],
        None,
    ),
    "limited": ([Fault(COMMIT, 429, {"RateLimit": '"api";r=0;t=11'}, times=1)], [11], None),
    "busy-for-long": (
        [Fault(COMMIT, 429, {"Retry-After": "3600"})],
        [],
        "the Hub was asked too often, try again later (429, in 3600 s)",
    ),
    "busy-for-no-number": ([Fault(COMMIT, 429, {"Retry-After": "\xb2"}, times=1)], WAITS[:1], None),
    "busy-for-no-date": ([Fault(COMMIT, 429, {"Retry-After": "9" * 5000}, times=1)], WAITS[:1], None),
    "keyless": ([Fault(COMMIT, 200, body=b"{}")], WAITS, f"{UNANSWERED} ({STRANGE}, KeyError: 'commitUrl')"),
    "keyless-once": ([Fault(COMMIT, 200, body=b"{}", times=1)], WAITS[:1], None),
    "list": (
        [Fault(COMMIT, 200, body=b"[]")],
        WAITS,
        f"{UNANSWERED} ({STRANGE}, TypeError: list indices must be integers or slices, not str)",
    ),
    "page": (
        [Fault(COMMIT, 200, body=b"<html>")],
        WAITS,
        f"{UNANSWERED} (Expecting value: line 1 column 1 (char 0))",
    ),
    "dropped-request": ([Fault(COMMIT, drop="request", times=1)], WAITS[:1], None),
    "dropped-reply": ([Fault(COMMIT, drop="reply", times=1)], WAITS[:1], None),
    "unknown-token": ([Fault(COMMIT, 401)], [], f"{UNKNOWN_TOKEN} (401)"),
    "denied": ([Fault(COMMIT, 403, {"X-Error-Message": "No space."})], [], f"{DENIED} (403, No space)"),
    "gone": ([Fault(COMMIT, 404)], [], "the Hub does not find it, check the spelling and whether it was deleted (404)"),
    "conflict": ([Fault(COMMIT, 409)], [], "something else is being done there, try again when it is over (409)"),
    "overtaken": ([Fault(COMMIT, 412)], [], "somebody else changed it meanwhile, try again (412)"),
    "bad": ([Fault(COMMIT, 418)], [], "the Hub refuses this (418)"),
    "upload-denied": ([Fault("PUT /someone/{name}/lfs", 403)], [], f"{DENIED} (403)"),
    "upload-dropped": ([Fault("PUT /someone/{name}/lfs", drop="request", times=1)], [1], None),
}

PUSH = """
import json, pathlib, sys
from genaf_hf import hub
from genaf_hf.sharing.publishing import publish

waits, silence = pathlib.Path("waits"), hub.LONGEST_SILENCE
found = {}
for name in sys.argv[1:]:
    waits.write_text("")
    hub.LONGEST_SILENCE = 0.5 if name == "restless" else silence
    try:
        said = publish(name, f"someone/{name}")
    except ValueError as error:
        said = str(error)
    found[name] = {"said": said, "waits": [float(line) for line in waits.read_text().split()]}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def hub():
    with LocalHub({TOKEN: "someone"}) as hub:
        for kind in ("models", "datasets"):
            for access in ("public", "private", "gated"):
                hub.add(kind, f"other/{access}", access)
            for trouble in ("denied", "busy", "failing", "dropped", "slow"):
                hub.add(kind, f"other/{trouble}").add_commit("main", {"config.json": b"{}", "data.csv": b"a\n1\n"})
        hub.faults = [
            Fault("/other/denied/", 403),
            Fault("/other/busy/", 429, {"Retry-After": "3"}),
            Fault("/other/failing/", 500),
            Fault("/other/dropped/", drop="request"),
            Fault("/other/slow/", delay=1.2),
        ]
        yield hub


# ---- loading ----


@pytest.fixture(scope="module")
def not_loaded(hub, place) -> dict[str, str]:
    """What is said when what NOT_LOADED asks for is loaded, in one process."""
    asked = {f"{kind}, {name}": (kind, NOT_LOADED[name][0]) for name in NOT_LOADED for kind in KINDS}
    asked["slow"] = ("images", {"repo_id": "other/slow"})
    asked["repository"] = ("repository", {"repo_id": "someone/new", "token": "hf_wrong"})
    done = run_as_user(hub, place, "-c", LOAD, json.dumps(asked), HF_HUB_ETAG_TIMEOUT="1", HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NOT_LOADED)
def test_what_the_hub_refuses_is_refused_in_one_sentence_that_says_what_to_do(hub, not_loaded, kind, name):
    settings, sentence = NOT_LOADED[name]
    repo_id, kind_there = settings["repo_id"], KINDS[kind]
    page = f"{hub.endpoint}/{'datasets/' if kind_there == 'dataset' else ''}{repo_id}"
    assert not_loaded[f"{kind}, {name}"] == sentence.format(kind=kind_there, id=repo_id, page=page)


def test_a_slow_hub(not_loaded):
    assert not_loaded["slow"] == f'The dataset "other/slow" cannot be loaded: {UNANSWERED} (timed out).'


def test_a_repository_that_cannot_be_written_to_is_refused_before_any_work(not_loaded):
    invalid = "401, Invalid credentials in Authorization header"
    assert (
        not_loaded["repository"]
        == f'The repository "someone/new" of the Hub cannot be written to: {UNKNOWN_TOKEN} ({invalid}).'
    )


def test_a_hub_that_is_not_there(hub, place):
    asked = {kind: (kind, {"repo_id": "someone/thing"}) for kind in (*KINDS, "repository")}
    nowhere = f"http://127.0.0.1:{free_port()}"
    done = run_as_user(hub, place, "-c", LOAD, json.dumps(asked), HF_ENDPOINT=nowhere)
    assert done.returncode == 0, done.stderr
    unanswered = f"{UNANSWERED} ([Errno 111] Connection refused)."
    assert json.loads(done.stdout) == {
        **{kind: f'The {name} "someone/thing" cannot be loaded: {unanswered}' for kind, name in KINDS.items()},
        "repository": f'The repository "someone/thing" of the Hub cannot be written to: {unanswered}',
    }


# ---- pushing ----


@pytest.fixture(scope="module")
def pushed(hub, place) -> dict[str, dict]:
    """What `publish` says and how long it waits for each of PUSHED, in one process."""
    hub.uploads.clear()
    later = format_datetime(datetime.now(timezone.utc) + LATER)
    for name, (faults, *_) in PUSHED.items():
        for path, content in contents(name).items():
            (place / name).mkdir(exist_ok=True)
            (place / name / path).write_bytes(content)
        for fault in faults:
            fault.pattern = fault.pattern.format(name=name)
            fault.headers = {header: value.format(later=later) for header, value in fault.headers.items()}
            hub.faults.append(fault)
    done = run_as_user(hub, place, "-c", PUSH, *PUSHED)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return json.loads(done.stdout)


def contents(name: str) -> dict[str, bytes]:
    """A folder's files; those that are no model's are not to be pushed."""
    return {
        "README.md": b"---\nlibrary_name: transformers\n---\n",
        "config.json": b"{}",
        "model.safetensors": name.encode() * 1000,
        "optimizer.pt": TOKEN.encode(),
        "training.json": json.dumps({"base_model": {}, "defence": DEFENCES["trades"].configure().record()}).encode(),
    }


@pytest.mark.parametrize("name", PUSHED)
def test_a_push_waits_for_what_passes_and_says_how_it_goes_on_after_what_does_not(hub, place, pushed, name):
    _, waits, sentence = PUSHED[name]
    said, waited = pushed[name]["said"], pushed[name]["waits"]
    files = contents(name)
    assert {path.name: path.read_bytes() for path in (place / name).iterdir()} == files
    assert waited == pytest.approx(waits, abs=120 if name == "busy-until" else 0)

    repository = hub.repositories["models", f"someone/{name}"]
    if sentence is None:
        del files["optimizer.pt"]
        assert repository.files() == files
        assert said == f"{hub.endpoint}/someone/{name}/commit/{repository.commit()}"
    else:
        assert repository.files() == {}
        assert said == (
            f'"someone/{name}" was not pushed: {sentence}; everything is kept in {name}, and this command goes on: '
            f"genaf-hf push {name} someone/{name}"
        )


@pytest.mark.parametrize(("name", "attempts"), [("failing", 4), ("busy", 2), ("denied", 1), ("dropped-reply", 1)])
def test_what_arrived_is_not_sent_again(hub, pushed, name, attempts):
    sent = [(where.split("/")[-2], content) for where, content in hub.uploads if f"/someone/{name}/" in where]
    assert [where for where, _ in sent].count("commit") == attempts
    assert [content for where, content in sent if where == "lfs"] == [contents(name)["model.safetensors"]]
    assert len(hub.repositories["models", f"someone/{name}"].commits) == (1 if name in ("failing", "denied") else 2)


def test_a_push_is_called_by_the_defence_that_trained_the_model(hub, place, pushed):
    bodies = [content for where, content in hub.uploads if where.startswith("POST") and "/commit/" in where]
    names = {json.loads(body.splitlines()[0])["value"]["summary"] for body in bodies}
    assert names == {"Defence trades: TRADES (Zhang et al., ICML 2019)"}
    assert message_of(place / "of-no-record") == "Model, report and card"


def test_a_run_whose_push_fails_is_finished_and_one_command_goes_on_with_the_push(hub, place, dataset, encoders):
    dataset.save_to_disk(place / "colours")
    folder = place / "it's hardened"
    settings = {"model_name_or_path": encoders["mae"], "dataset_name": "colours", "output_dir": folder.name}
    settings |= {"push_to_hub": True, "hub_model_id": "someone/hardened", "hub_private_repo": True}
    settings |= {
        "hub_revision": "next",
        "defence": "gen-af",
        "max_steps": 1,
        "adapt_max_steps": 1,
        "steps": 1,
        "assessment_samples": 8,
    }
    settings |= {"attacks": "l4a,pgd", "attack_settings": '{"steps": 1}', "push_anyway": True}
    settings |= {"report_to": "none", "use_cpu": True}
    hub.uploads.clear()
    unreliable = Fault("PUT /someone/hardened/lfs", drop="request")
    hub.faults.append(unreliable)
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    failed = run_as_user(hub, place, RECIPE, *flags)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    [sentence] = [line for line in failed.stderr.splitlines() if " was not pushed: " in line]
    assert sentence.startswith(f'"someone/hardened" was not pushed: {UNANSWERED} (')
    assert f"everything is kept in {folder.name}, and" in sentence
    assert hub.repositories["models", "someone/hardened"].files("next") == {}
    assert not (folder / "unfinished_run").exists()

    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.faults.remove(unreliable)
    command = sentence.partition("goes on: genaf-hf push ")[2]
    resumed = run_as_user(hub, place, "-m", "genaf_hf.cli", "push", *shlex.split(command))
    assert resumed.returncode == 0, resumed.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == kept
    repository = hub.repositories["models", "someone/hardened"]
    assert resumed.stdout == f"Pushed to {hub.endpoint}/someone/hardened/commit/{repository.commit('next')}\n"
    assert repository.access == "private"
    files = repository.files("next")
    assert {"README.md", "config.json", "model.safetensors", "overview.png", "report.json"} <= files.keys()
    assert all((folder / path).read_bytes() == content for path, content in files.items())
    assert not any(re.search(r"undefended|unfinished|optimizer|training_args", path) for path in files)
    assert TOKEN not in failed.stdout + failed.stderr + resumed.stdout + resumed.stderr
    assert hub.uploads_with(TOKEN) == []


DOUBTFUL = {
    "failed": (
        [Check("hardened", "the model predicts more than one class", False, {"images": 10})],
        "it failed the self-checks of its report (the model predicts more than one class)",
    ),
    "unchecked": ([], "its report has no self-check of it"),
}


def test_what_cannot_be_trusted_is_pushed_only_where_that_is_asked_for_and_nothing_never(hub, place, encoders):
    for name in ("empty", "audit"):
        (place / name).mkdir()
    make_report().save(place / "audit/report.json")
    (place / "audit/README.md").write_text("# Findings\n")
    for name, (checks, _) in DOUBTFUL.items():
        shutil.copytree(encoders["dino"], place / name)
        make_report(checks=checks).save(place / name / "report.json")
    names = ["empty", "audit", *DOUBTFUL]
    said = run_several(hub, place, [["genaf_hf.cli", "push", name, f"someone/{name}"] for name in names])
    assert said[0] == "\nempty holds no model to publish, expected config.json or adapter_config.json in it."
    assert said[1].endswith("; what an audit found is added to the card of its model by genaf-hf audit --update_card.")
    for (name, (_, reason)), sentence in zip(DOUBTFUL.items(), said[2:], strict=True):
        kept = f"{reason}; everything is kept in {name}, and this command pushes it all the same: "
        command = f"genaf-hf push {name} someone/{name} --push_anyway"
        assert sentence == f'\n"someone/{name}" was not pushed: {kept}{command}'
    assert not [name for name in names if ("models", f"someone/{name}") in hub.repositories]
    assert (
        run_several(
            hub,
            place,
            [["genaf_hf.cli", "push", *shlex.split(sentence.rpartition("genaf-hf push ")[2])] for sentence in said[2:]],
        )
        == [""] * 2
    )
    for name in DOUBTFUL:
        assert "model.safetensors" in hub.repositories["models", f"someone/{name}"].files("main")
