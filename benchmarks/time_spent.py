"""Where the time of the default run goes, or of another command.

    python benchmarks/time_spent.py
    python benchmarks/time_spent.py --max_steps 60
    python benchmarks/time_spent.py audit --model_name_or_path MODEL --encoder ENCODER --dataset_name DATASET

Looks 50 times a second at what the command is doing, and counts the processor's time since the last look to that.
Further arguments are the command's. It runs in an empty folder, where nothing was crafted before. Prints a Markdown
table when it is at its end.
"""

import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable

# By functions: what runs in one of them, in whatever it calls, is counted to the innermost.
PARTS = {
    "importing libraries": {"_find_and_load"},
    "pre-training the public encoder": {"pretrain_digits_encoder"},
    "training": {"_train_stage"},
    "assessing layers": {"assess_layers"},
    "crafting what is trained on": {"crafted_once"},
    "measuring, all else": {"evaluate_threats", "try_out", "evaluation_loop"},
    "drawing pictures": {"draw_samples", "draw_gallery", "draw_overview", "write_results", "savefig"},
}


class Looks(threading.Thread):
    """Counts the processor's seconds by what the main thread does."""

    def __init__(self):
        super().__init__(daemon=True)
        self.main, self.seconds = threading.main_thread().ident, Counter()
        self.doing: list[str] = []  # what was noted, the innermost last

    def run(self) -> None:
        last = time.process_time()
        while True:
            time.sleep(0.02)
            seen = time.process_time()
            now = self.doing[-1:] or [part_of(sys._current_frames().get(self.main))]
            self.seconds[now[0]] += seen - last
            last = seen

    def note(self, owner: object, name: str, words: Callable[..., str]) -> None:
        """Has a function of a module or class noted while it runs, in words made of what it is called with."""
        function = getattr(owner, name)

        def noted(*given, **settings):
            self.doing.append(words(*given, **settings))
            try:
                return function(*given, **settings)
            finally:
                self.doing.pop()

        setattr(owner, name, noted)


def part_of(frame) -> str:
    """The part that a stack of calls is in."""
    while frame is not None:
        for part, names in PARTS.items():
            if frame.f_code.co_name in names:
                return part
        frame = frame.f_back
    return "all else"


def measured(subject: object, step: str, *others, **settings) -> str:
    """What a step of an evaluation is for."""
    if step.startswith("noise.") or step.endswith(".shuffled"):
        return "measuring controls"
    return "measuring other eps" if ".sweep-" in step else f"measuring {step.removesuffix('-adaptive')}"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["HF_HOME"] = folder  # where nothing was crafted before
        looks = Looks()
        looks.start()
        from genaf_hf.cli.help_pages import COMMANDS
        from genaf_hf.cli.main import main as run
        from genaf_hf.evaluation import attacker, subject

        looks.note(attacker, "crafted_once", lambda attack, *others, **settings: f"crafting {attack.name}")
        looks.note(subject.Subject, "answers", measured)
        looks.note(subject, "self_checks", lambda *given, **settings: "self-checks")
        if sys.argv[1:2] and sys.argv[1] in COMMANDS:
            run()
        else:
            run("harden", default_config="digits_vit.yaml", family_config="encoder.yaml")
    total = sum(looks.seconds.values())
    print("\n| what | seconds | share |\n|---|---:|---:|")
    for part, seconds in looks.seconds.most_common():
        print(f"| {part} | {seconds:.1f} | {seconds / total:.0%} |")
    print(f"| all | {total:.1f} | |")


if __name__ == "__main__":
    main()
