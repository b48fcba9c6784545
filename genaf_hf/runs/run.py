"""A run: work that fills one folder, and that goes on where it was when it is killed and started again."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from genaf_hf.errors import UserError, first_line
from genaf_hf.runs.journal import Journal, write_whole
from genaf_hf.runs.output_folder import LOCK, check_apart, check_writable, locked, room_in
from genaf_hf.runs.reproducing_command import reproducing_command
from genaf_hf.values.provenance import public_name

logger = logging.getLogger(__name__)

UNFINISHED_RUN, ENDED, SETTINGS = "unfinished_run", "ended_run", "settings.json"
NEW, UNFINISHED, FINISHED, TAKEN = "new", "unfinished", "finished", "somebody else's"  # what a folder is
NAMED = 6  # settings at most
# How the names begin of settings that leave a result what it is: where it lies, how it is told, how fast it comes.
HARMLESS = (
    *("output_dir", "run_name", "report_to", "project", "trackio_", "disable_tqdm", "logging_", "log_", "do_"),
    *("save_", "resume_from_checkpoint", "restore_callback_states", "push_", "hub_", "update_card", "create_pr"),
    *("use_cpu", "local_rank", "per_device_eval_batch_size", "eval_accumulation_steps", "batch_size"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor"),
    *("dataloader_persistent_workers", "dataloader_multiprocessing_context", "ddp_timeout", "ddp_bucket_cap_mb"),
    *("torch_empty_cache_steps", "skip_memory_metrics", "include_num_input_tokens_seen", "debug"),
)
READ = ("model_name_or_path", "dataset_name", "encoder")  # wherever it lies: its content is compared once it is loaded


class Run:
    """Work that fills one folder, alone there, and goes on where it was when it was killed.

        run = Run("out", settings, leaves=["report.json"], reads={"dataset": "photos"})
        run.check()  # before what takes long
        with run.working({"content of the images": digest}):
            found = run.journal("evaluation").once("accuracy", measure)

    It is known by its folder, which may be moved and renamed. What serves only to go on lies in `unfinished` there,
    and is removed when the `with` comes to its end.

    Args:
        folder: made when the work begins.
        settings: what it is asked for; those that are `HARMLESS` may change when it goes on, all others may not.
        leaves: names of what every finished run of its kind leaves in the folder.
        overwrites: names of what else it may write there. Where any of both is there, it does not begin.
        reads: Hub id or local folder, by what it is, of what it must not write into.
        replaceable: tells whether what is there may be replaced all the same.
        shared: whether others work in the folder meanwhile, who agree otherwise on what is done. Then nothing there is
            begun, gone on with or ended.

    Attributes:
        resumed: whether it went on with what was unfinished; known while it is working.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, object],
        *,
        leaves: Sequence[str] = (),
        overwrites: Sequence[str] = (),
        reads: Mapping[str, str] | None = None,
        replaceable: Callable[[], bool] = lambda: False,
        shared: bool = False,
    ):
        self.folder, self.settings = Path(folder), decisive(settings)
        self.leaves, self.overwrites, self.reads = tuple(leaves), tuple(overwrites), dict(reads or {})
        self.replaceable, self.shared = replaceable, shared
        self.resumed = False

    @property
    def unfinished(self) -> Path:
        """Folder of what serves only to go on."""
        return self.folder / UNFINISHED_RUN

    @property
    def state(self) -> str:
        """What the folder is: `NEW`, `UNFINISHED`, `FINISHED`, or `TAKEN` by something else of the names.

        Raises:
            UserError: when it is no folder.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file, expected a folder or a new name.")
        state, found = NEW, self._results()
        if (self.unfinished / SETTINGS).exists():
            state = UNFINISHED
        elif found:
            state = FINISHED if {*self.leaves} <= {*found} else TAKEN
        return broadcast_object_list([state])[0]

    def check(self) -> None:
        """Refuses, before any work, a folder that the run could not begin or go on in.

        Raises:
            UserError: when it is, holds, or lies in what is read; when nothing can be written there; when another run
                works there; when it holds an unfinished run with other settings, names them; or when it holds results.
        """
        check_apart(self.folder, self.reads)
        if self.shared:
            return
        if broadcast_object_list([(self.folder / LOCK).exists()])[0]:
            with locked(self.folder / LOCK):
                pass
        self._goes_on(self.settings)
        check_writable(self.folder)

    @contextmanager
    def working(self, loaded: Mapping[str, object] | None = None) -> Iterator[None]:
        """Holds the folder, begins or goes on, and ends the run when the work is done.

        Args:
            loaded: settings that are only known now, as what stands behind names.

        Raises:
            UserError: as `check`; when nothing can be written there, or the disk is full.
        """
        if self.shared:
            with room_in(self.folder):
                yield
            return
        with locked(self.folder / LOCK), room_in(self.folder):
            self._begin_or_go_on({**self.settings, **decisive(loaded or {})})
            try:
                yield
            except UserError:
                self._withdraw()
                raise
            self._end()

    def journal(self, name: str) -> Journal:
        """What one part of the work has found so far."""
        return Journal(self.unfinished / name)

    def command(self, name: str, flags: Mapping[str, object]) -> str:
        """The command line that does the run again by `genaf-hf NAME` with these flags, on as many processes."""
        state = PartialState()
        flags = {**flags, "output_dir": str(self.folder)}
        return reproducing_command(name, flags, processes=state.num_processes, device=state.device.type)

    def _results(self) -> list[str]:
        """Those of the names that it writes that are there."""
        return [name for name in dict.fromkeys((*self.leaves, *self.overwrites)) if (self.folder / name).exists()]

    def _begin_or_go_on(self, settings: dict) -> None:
        self.resumed = self._goes_on(settings)
        if self.resumed:
            logger.info("Going on with the unfinished run in %s", self.folder)
        elif PartialState().is_main_process:
            for left_over in (self.unfinished, self.folder / ENDED):
                shutil.rmtree(left_over, ignore_errors=True)
            write_whole(self.unfinished / SETTINGS, json.dumps(settings, indent=2))
        PartialState().wait_for_everyone()

    def _goes_on(self, settings: dict) -> bool:
        """Whether there is an unfinished run with these settings; without any, whether one can begin."""
        state = self.state
        if state != UNFINISHED:
            if state != NEW and not self.replaceable():
                holds = "a finished run" if state == FINISHED else "what is of no finished run"
                raise UserError(
                    f"{self.folder} holds {holds} ({', '.join(self._results())}): nothing is overwritten, so choose "
                    f"another output_dir{', or delete that one to run anew' if state == FINISHED else ''}."
                )
            return False
        in_the_way = self.folder if self._results() and not self.replaceable() else self.unfinished
        [before, reason] = broadcast_object_list([*read_settings(self.unfinished / SETTINGS)])
        if before is None:
            raise UserError(
                f"{self.unfinished / SETTINGS} cannot be read ({reason}), so that nobody knows with which settings "
                f"that run began: choose another output_dir, or delete {in_the_way} to start anew."
            )
        if changed := changes({name: before.get(name) for name in settings}, settings):
            raise UserError(
                f"{self.folder} holds an unfinished run with other settings ({changed}): choose another output_dir, "
                f"or delete {in_the_way} to start anew."
            )
        return True

    def _withdraw(self) -> None:
        """Forgets a run that was refused and left nothing to go on from, so that it can begin with what was mended."""
        if self.resumed or not PartialState().is_main_process:
            return
        done = [path for path in self.unfinished.rglob("*") if path.is_file() and path != self.unfinished / SETTINGS]
        if not done and (self.replaceable() or not self._results()):
            shutil.rmtree(self.unfinished, ignore_errors=True)

    def _end(self) -> None:
        PartialState().wait_for_everyone()
        if PartialState().is_main_process:
            ended = self.folder / ENDED
            self.unfinished.rename(ended)  # at once: a run that is killed meanwhile has ended
            shutil.rmtree(ended)
        PartialState().wait_for_everyone()


def decisive(settings: Mapping[str, object]) -> dict:
    """The settings that a result depends on, as JSON gives them back; local folders that are read by their names."""
    kept = {
        name: public_name(value) if name in READ and isinstance(value, str) else value
        for name, value in settings.items()
        if not name.startswith(HARMLESS)
    }
    return json.loads(json.dumps(kept))


def changes(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """What differs between settings, in words; nothing where nothing does."""
    changed = [name for name in {**after, **before} if before.get(name) != after.get(name)]
    words = [f"{name} was {before.get(name)} and is {after.get(name)}" for name in changed[:NAMED]]
    return ", ".join(words + ([f"and {len(changed) - NAMED} more"] if len(changed) > NAMED else []))


def read_settings(path: Path) -> tuple[dict | None, str]:
    """Settings from a file; None and the reason where they cannot be read."""
    try:
        found = json.loads(path.read_text())
        return (found, "") if isinstance(found, dict) else (None, f"it holds a {type(found).__name__}")
    except (OSError, RecursionError, ValueError) as error:
        return None, first_line(error)
