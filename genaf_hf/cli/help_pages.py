"""The short help of each command: what a user needs first, in groups.

A page is a file, so that nothing has to be imported to show it. `python -m genaf_hf.cli.help_pages` writes all of them
anew; a test keeps them equal to the flags.
"""

import textwrap
from argparse import Action
from collections.abc import Mapping
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

PAGES = Path(__file__).parent / "pages"
WIDTH, COLUMN = 118, 34
LONG = 6  # characters of a number
COMMANDS = (
    *("harden", "harden-encoder", "audit", "evolve", "pretrain", "demo", "compare", "leaderboard", "push", "convert"),
)
NAMES = ("genaf-hf", *COMMANDS)
HELP = {"-h", "--help"}
LONGEST_COMMAND = 14
USAGE = """\
Hardens vision encoders against downstream-agnostic adversarial examples, by Gen-AF and others.

    genaf-hf COMMAND [FILE.yaml] [--FLAG VALUE ...]
    genaf-hf COMMAND --help
    accelerate launch -m genaf_hf.cli COMMAND ...    several processes

"""
EVERYWHERE = f"""\
Every command:
{"  --help-all":<{COLUMN}}All flags, of a training also those of TrainingArguments of transformers.
{"  --debug":<{COLUMN}}Show where in the code an error comes from.
"""
MODEL = "model_name_or_path model_revision"
IMAGES = "dataset_name dataset_config_name image_column label_column train_split"
DRAWN = "test_split max_train_samples max_eval_samples streaming"
TRAINING = "learning_rate num_train_epochs max_steps per_device_train_batch_size seed bf16 use_cpu"
WORKERS = "dataloader_num_workers"
HUB = "push_to_hub hub_model_id hub_private_repo"
GROUPS = {
    "harden": {
        "Model": f"{MODEL} image_size",
        "Images": f"dataset_name dataset_config_name {DRAWN}",
        "Training": f"{TRAINING} head_learning_rate layer_decay gradient_checkpointing {WORKERS}",
        "Defence": "defence defence_settings eps steps genetic_weight clean_share adapt_epochs adapt_learning_rate",
        "Attacks on the result": "attacks attack_settings",
        "Output and Hub": f"output_dir dry_run report_to {HUB} push_anyway",
    },
    "harden-encoder": {
        "Model": f"{MODEL} pooling",
        "Images": f"dataset_name dataset_config_name image_column {DRAWN}",
        "Training": f"{TRAINING} layer_decay gradient_checkpointing {WORKERS}",
        "Defence": "eps clean_share defence_settings",
        "Attacks on the result": "attacks attack_settings probe_datasets",
        "Output and Hub": f"output_dir report_to {HUB} push_anyway",
    },
    "audit": {
        "Model": f"{MODEL} encoder encoder_revision",
        "Images": f"{IMAGES} test_split limit skip_broken_images",
        "Attacks": "attacks attack_settings perturbations dae_eps eps sweep seed batch_size",
        "Output and Hub": "output_dir answers fail_under under update_card create_pr",
    },
    "evolve": {
        "Model": MODEL,
        "Images": f"{IMAGES} {DRAWN}",
        "Search": "population generations max_parameters max_seconds inherit pick study storage",
        "Training": f"{TRAINING} head_learning_rate defence defence_settings eps steps",
        "Attacks on the result": "attacks attack_settings",
        "Output": "output_dir report_to",
    },
    "pretrain": {
        "Model": "method model_type model_settings method_settings",
        "Images": f"{IMAGES} max_train_samples image_size crop_scale flip color blur local_views local_size",
        "Training": f"{TRAINING} weight_decay",
        "Output and Hub": f"output_dir report_to {HUB}",
    },
}
WORDS = {  # where transformers says more than a line, or what does not hold here
    "max_steps": "Steps, instead of epochs if positive.",
    "seed": "Of all that is random; images are held out and drawn by seed 0.",
    "bf16": "Compute in bfloat16.",
    "use_cpu": "Leave GPUs alone.",
    "gradient_checkpointing": "Compute activations twice instead of keeping them: less memory, more time.",
    "dataloader_num_workers": "Processes that decode images, on free cores.",
    "output_dir": "Folder of all that comes out.",
    "report_to": "wandb, tensorboard, trackio and the like, or none.",
    "push_to_hub": "Push the result to the Hub.",
    "hub_model_id": "Repository of the Hub, default the output folder's name.",
    "hub_private_repo": "Whether a new repository is private.",
}


def read_page(name: str) -> str:
    """One of the pages, of `NAMES`."""
    return (PAGES / f"{name}.txt").read_text(encoding="utf-8")


def module_of(command: str) -> ModuleType:
    """What does a command."""
    return import_module(f"genaf_hf.cli.{command.replace('-', '_')}")


def make_page(command: str, here: Mapping[str, Any] | None = None) -> str:
    """The short help of a command from its flags.

    Args:
        command: whose flags, and the docstring of whose module, are told.
        here: by flag, what a model gets that the command line names.
    """
    module = module_of(command)
    parser = module.parser()
    actions = {each.dest: each for each in reversed(parser._actions) if each.dest != "help"}
    groups = GROUPS.get(command) or {"Flags": " ".join(reversed(actions))}
    parts = [module.__doc__]
    for title, names in groups.items():
        parts.append(f"\n{title}:\n")
        for name in names.split():
            kind = value_kind(actions[name], parser.kinds.get(name, set()))
            parts.append(entry(actions[name], kind, (here or {}).get(name)))
    return "".join([*parts, "\n", EVERYWHERE])


def make_overview() -> str:
    """The help of `genaf-hf` itself."""
    purposes = {each: module_of(each).__doc__.splitlines()[0] for each in COMMANDS}
    lines = [f"  {command:<{LONGEST_COMMAND}} {purpose}\n" for command, purpose in purposes.items()]
    return "".join([USAGE, *lines])


def value_kind(action: Action, kinds: set[type]) -> str:
    """What stands after a flag."""
    if action.choices:
        return "|".join(map(str, action.choices))
    if bool in kinds:
        return "true|false" if action.nargs is None else ""
    named = ((dict, "JSON"), (str, "TEXT"), (float, "NUMBER"), (list, "VALUE ..."), (int, "N"))
    return next((word for kind, word in named if kind in kinds), "TEXT" if action.nargs is None else "")


def entry(action: Action, kind: str, here: Any = None) -> str:
    """The lines on one flag."""
    name = f"  --{action.dest} {kind}".rstrip() if action.option_strings else f"  {action.dest.upper()}"
    said, default = WORDS.get(action.dest, action.help).rstrip("."), action.default
    if action.choices and len(name) > WIDTH:
        name, said = f"  --{action.dest} NAME", f"{said}: {', '.join(action.choices)}"
    untold = default is None or default is False or default == -1 or "default" in said.lower()
    if here is not None:
        said = f"{said} (here {value_words(here)})"
    elif default is True:
        said = f"{said} (default, --no_{action.dest} turns it off)"
    elif not untold:
        said = f"{said} (default {value_words(default)})"
    lines = textwrap.wrap(f"{said}.", WIDTH - COLUMN)
    if len(name) >= COLUMN:
        lines.insert(0, "")
    return "".join(
        f"{start:<{COLUMN}}{line}".rstrip() + "\n" for start, line in zip_longest([name], lines, fillvalue="")
    )


def value_words(value: Any) -> str:
    """A default as one would write it: parts of 255 where these are shorter."""
    if isinstance(value, list):
        return " ".join(map(value_words, value))
    if isinstance(value, float) and len(repr(value)) > LONG and (255 * value).is_integer():
        return f"{255 * value:.0f}/255"
    return f"{value:.2g}" if isinstance(value, float) and len(repr(value)) > LONG else str(value)


def make(name: str) -> str:
    """One of the pages, of `NAMES`, from what it tells of."""
    return make_page(name) if name in COMMANDS else make_overview()


if __name__ == "__main__":
    for each in NAMES:
        (PAGES / f"{each}.txt").write_text(make(each), encoding="utf-8")
