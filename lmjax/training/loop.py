"""The loop: a run from its beginning to its end, from one seed or from several at once."""

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lmjax import data
from lmjax.config import Config
from lmjax.console import few, say, warn
from lmjax.data.feed import Feed
from lmjax.devices import seed_mesh
from lmjax.errors import InputError
from lmjax.training.due import Due
from lmjax.training.epoch import epoch_metrics, evaluate, require_finite, train_epoch
from lmjax.training.interruption import Interruption
from lmjax.training.profiling import Profile
from lmjax.training.progress import introduce, progress_bar, say_epoch
from lmjax.training.run_folder import Position, RunFolder
from lmjax.training.trainer import NonFiniteLoss, Trainer


class Stopped(Exception):
    """The end of a run by a signal, with everything saved.

    Attributes:
        code: exit code of the process.
    """

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


class Diverged(InputError):
    """A loss that is not finite, and that ends the run."""


class NoCommonStep(InputError):
    """No checkpoint of one step that all seeds have, now that damaged ones are set aside."""


def run(
    configs: Sequence[Config],
    names: Sequence[str],
    *,
    resume: Sequence[bool],
    side_by_side: bool = False,
    like: Trainer | None = None,
    dataset: data.Dataset | data.Photographs | None = None,
    interruption: Interruption | None = None,
    log: Collection[str] = (),
    profile: str | None = None,
) -> tuple[Trainer, dict[int, dict[str, Any]]]:
    """Train a network to the end of its last epoch.

    Args:
        configs: the run; of several seeds, that of each, which differ in seed and folder alone.
        names: of the runs, for messages.
        resume: for each, go on with the run in its folder.
        side_by_side: give each seed one device, instead of dividing one run over all of them.
        like: the trainer of a run that differs in the seeds alone: its data and programs are used again.
        dataset: of the run, if it is loaded already.
        interruption: what may ask it to stop; None: signals to this process.
        log: the trackers to tell of it, of `trackers.NAMES`.
        profile: the folder for a trace of some steps, "" for one in that of the first run; None for no trace.

    Returns:
        The trainer, without its state, and the summaries by seed; those of seeds that have diverged are missing.

    Raises:
        InputError: for a mistake of the user; a `Diverged`, if no seed is left. What was trained is saved.
        Stopped: if it was asked to stop.
    """
    config, interruption = configs[0], interruption or Interruption()
    with contextlib.ExitStack() as stack:
        folders = _folders(stack, configs, names, resume)
        trainer = _trainer(stack, configs, side_by_side, like, dataset, begins=not any(resume))
        introduce(trainer)
        stack.enter_context(interruption)
        stack.enter_context(trainer)
        for folder in folders:  # only after compiling, so that a network that cannot run leaves no folder behind
            folder.open(stack, log)
        if any(resume):
            restore(trainer, folders)
        due, record = Due(config.checkpoint, trainer.step), folders[0].record
        trace = Profile(None if profile is None or not record.writes else profile or record.directory / "profile")
        while (epoch := _epochs(trainer, folders) + 1) <= config.train.epochs:
            try:
                tested = _train_and_evaluate(trainer, folders, epoch, interruption, due, trace)
            except NonFiniteLoss as error:
                roll_back(trainer, folders, error)
                due.saved(trainer.step)
                continue
            if tested is not None:
                log_epoch(trainer, folders, tested)
            if tested is None or _due_after(epoch, trainer, folders) or due(trainer.step):
                save(trainer, folders, tested)
                due.saved(trainer.step)
            if tested is None and interruption.signal:
                raise _stopped(trainer, folders, interruption)
        return trainer, {trainer.seeds[i]: folder.finish(trainer, i) for i, folder in _sound(trainer, folders)}


def _folders(
    stack: contextlib.ExitStack, configs: Sequence[Config], names: Sequence[str], resume: Sequence[bool]
) -> list[RunFolder]:
    """The folders of the seeds; those that hold a run are kept from other runs until the stack is closed."""
    folders = list(map(RunFolder, configs, names, resume))
    multihost_utils.sync_global_devices("all have looked at the folders")  # before the first process writes to them
    for folder in folders:
        stack.enter_context(folder.record)
        if folder.resume:
            folder.record.hold()
    return folders


def _trainer(stack, configs, side_by_side, like, dataset, begins):
    """The trainer; its state is freed when the stack is closed, since devices may have no room for two."""
    seeds = [config.seed for config in configs]
    if like is not None and len(like.seeds) == len(seeds):
        trainer = like.reseeded(*seeds, begins=begins)
    else:
        if dataset is None:
            dataset = configs[0].data.load() if like is None else like.dataset
        mesh, several = (seed_mesh(len(seeds)), seeds) if side_by_side else (None, None)
        trainer = Trainer(configs[0], dataset, mesh, several, begins)
    stack.callback(trainer.release)
    return trainer


def _sound(trainer: Trainer, folders: Sequence[RunFolder]) -> list[tuple[int, RunFolder]]:
    """The numbers and the folders of the seeds that have not diverged."""
    return [
        (i, folder)
        for i, (seed, folder) in enumerate(zip(trainer.seeds, folders, strict=True))
        if seed not in trainer.diverged
    ]


def _epochs(trainer: Trainer, folders: Sequence[RunFolder]) -> int:
    """The number of epochs that are complete."""
    _, folder = _sound(trainer, folders)[0]
    return len(folder.record.rows)


def _train_and_evaluate(
    trainer: Trainer, folders: Sequence[RunFolder], epoch: int, interruption: Interruption, due: Due, trace: Profile
) -> list[dict[str, float]] | None:
    """The test metrics of each seed after an epoch; None if there was a pause in it, to save."""
    end = epoch * trainer.steps_per_epoch
    try:
        if trainer.step < end:
            with trace.epoch(trainer) as between, progress_bar(trainer) as progress:
                train_epoch(trainer, progress, lambda step: between(step) or interruption() or due(step))
        tested = evaluate(trainer, interruption) if trainer.step == end else None
    except InputError:  # an error in the data: save what is trained
        if jax.process_count() == 1:  # several would have to save together, and the others do not know of the error
            _save_what_is_sound(trainer, folders)
        raise
    require_finite(trainer)
    return [tested] if isinstance(tested, dict) else tested


def restore(trainer: Trainer, folders: Sequence[RunFolder]) -> None:
    """Bring a trainer to the newest checkpoint that all its seeds have, or to the beginning if there is none.

    A seed that has diverged is given the state of another, so that all are at the same step.
    """
    sound = _sound(trainer, folders)
    steps = [folder.checkpoints.steps() for _, folder in sound]
    if not any(steps) and not any(folder.checkpoints.folder.set_aside() for _, folder in sound):
        trainer.restart()
        again = [folder.forget() for _, folder in sound]
        say(f"there is no checkpoint yet: starting again{''.join(again)}")
        return
    found: dict[int, Position | None] = {i: None for i, _ in sound}
    while None in found.values():
        step = None if len(sound) == 1 else _newest_of_all([folder for _, folder in sound])
        found = {i: folder.read(trainer, trainer.state_of(i), step) for i, folder in sound}
    read = {i: position for i, position in found.items() if position is not None}
    for i, folder in sound:  # only now, when all can be read
        folder.go_back(read[i])
    positions = [read.get(i, read[sound[0][0]]) for i in range(len(folders))]
    trainer.go_on(*zip(*(position[:3] for position in positions), strict=True))
    done = _epochs(trainer, folders)
    within = trainer.step - done * trainer.steps_per_epoch
    say(f"going on after epoch {done}" + (f" and {within} steps" if within else ""))


def _newest_of_all(folders: Sequence[RunFolder]) -> int:
    common = set.intersection(*(set(folder.checkpoints.steps()) for folder in folders))
    if not common:
        raise NoCommonStep(
            f"{folders[0].record.directory.parent}: the seeds have no checkpoint of the same step: resume each alone, "
            "as in --seeds 0 --resume"
        )
    return max(common)


def save(trainer: Trainer, folders: Sequence[RunFolder], tested: Sequence[dict[str, float]] | None = None) -> None:
    """Save a checkpoint of each seed; with the test metrics of an epoch if they are known."""
    sound = _sound(trainer, folders)
    for _, folder in sound:  # then all seeds have a checkpoint of one earlier step, whenever this is interrupted
        folder.checkpoints.wait()
    if tested is None and trainer.config.data.origin.streamed:  # images before this step are not read again
        _count_broken(trainer, trainer.feed)
    for i, folder in sound:
        folder.save(trainer, i, None if tested is None else tested[i]["test_accuracy"])


def _save_what_is_sound(trainer: Trainer, folders: Sequence[RunFolder]) -> None:
    """Save unless the state is broken or not counted, as after a loss that is not finite."""
    if trainer.step == _epochs(trainer, folders) * trainer.steps_per_epoch + trainer.sums[0].steps:
        with contextlib.suppress(NonFiniteLoss):
            require_finite(trainer)
            save(trainer, folders)


def log_epoch(trainer: Trainer, folders: Sequence[RunFolder], tested: Sequence[dict[str, float]]) -> None:
    """Write the row of an epoch of each seed, and name the seeds that have diverged in it."""
    config = folders[0].config
    trained = epoch_metrics(trainer)
    trained = [trained] if isinstance(trained, dict) else trained
    counted = {}
    if config.data.on_error == "skip":
        _count_broken(trainer, trainer.feed, trainer.test_feed)
        counted = {"broken_images": trainer.sums[0].broken}
    for i, folder in _sound(trainer, folders):
        row = folder.log(trainer, i, trained[i] | tested[i] | counted)
        say_epoch(row, config, folder.name, trainer.steps_per_epoch)
    _name_diverged(trainer, folders)


def _count_broken(trainer: Trainer, *feeds: Feed) -> None:
    """Name the images that could not be decoded since this was called last, and count them to the epoch."""
    broken = [place for feed in feeds for place in feed.take_broken()]
    trainer.sums[0].broken += name_broken(broken, trainer.reported)
    trainer.reported.update(broken)


def _name_diverged(trainer: Trainer, folders: Sequence[RunFolder]) -> None:
    """Report the seeds that have diverged since this was called last, and close their trackers."""
    for seed, folder in zip(trainer.seeds, folders, strict=True):
        if seed in trainer.diverged and not folder.ended:
            folder.ended = True
            folder.trackers.end(finished=False)
            warn(f"{folder.name}: {_cure(folder, trainer.diverged[seed])}")


def _cure(folder: RunFolder, error: NonFiniteLoss) -> str:
    folder.checkpoints.wait()
    saved = folder.checkpoints.latest()
    where = "" if saved is None else f"; the last checkpoint, of step {saved}, is in {folder.checkpoints.directory}"
    return f"{error}: try a smaller --optimizer.learning-rate than {folder.config.optimizer.learning_rate:g}{where}"


def _due_after(epoch: int, trainer: Trainer, folders: Sequence[RunFolder]) -> bool:
    """True if a checkpoint is due because of the epoch that is complete."""
    config = folders[0].config
    every = config.checkpoint.epochs
    last, in_turn = epoch == config.train.epochs, every is not None and epoch % every == 0
    return last or in_turn or any(folder.among_the_best() for _, folder in _sound(trainer, folders))


def roll_back(trainer: Trainer, folders: Sequence[RunFolder], error: NonFiniteLoss) -> None:
    """Go back to the last checkpoint. The seed that diverged draws anew; the others repeat their steps.

    Raises:
        Diverged: if that is not wanted, or not any more, and no other seed is left.
    """
    config, i = folders[0].config, trainer.seeds.index(error.seed)
    redraws, limit = list(trainer.redraws), config.train.nan_limit
    redraws[i] += 1
    again = config.train.on_nan == "rollback" and redraws[i] <= limit
    if again:
        trainer.diverged.pop(error.seed, None)
    elif not _sound(trainer, folders):
        if len(folders) == 1:
            raise Diverged(_cure(folders[i], error)) from error
        _name_diverged(trainer, folders)
        raise Diverged("all seeds have diverged: see above") from error
    for _, folder in _sound(trainer, folders):
        folder.checkpoints.wait()
    diverged = trainer.diverged
    restore(trainer, folders)
    for feed in (trainer.feed, trainer.test_feed):
        feed.take_broken()  # of steps that are repeated
    trainer.diverged = diverged
    trainer.redraw(
        [n if seed in diverged else m for seed, n, m in zip(trainer.seeds, trainer.redraws, redraws, strict=True)]
    )
    if again:
        warn(
            f"{folders[i].name}: {error}: back to step {trainer.step}, and on with other random draws ({redraws[i]} of "
            f"at most {limit} times)"
        )
    _name_diverged(trainer, folders)


def _stopped(trainer: Trainer, folders: Sequence[RunFolder], interruption: Interruption) -> Stopped:
    """The end of a run that was asked to stop, once all is written."""
    _name_diverged(trainer, folders)
    for folder in folders:
        folder.checkpoints.wait()
    multihost_utils.sync_global_devices("all have stopped")  # a process that leaves first would be reported as lost
    step, saved = trainer.step, _sound(trainer, folders)[0][1].checkpoints.latest()
    text = f"stopped at step {step}: --workdir and --resume go on"
    if saved != step:
        text += " from the beginning" if saved is None else f" from step {saved}"
    return Stopped(text, interruption.exit_code)


def name_broken(broken: Sequence[str], before: Collection[str] = ()) -> int:
    """Name the images that could not be decoded, each process its own; returns how many all have met.

    Args:
        broken: these.
        before: those that were named before, and are not again.
    """
    if new := sorted(set(broken).difference(before)):
        warn(f"{len(new)} images could not be decoded, and were skipped: {few(new)}")
    return int(multihost_utils.process_allgather(np.int32(len(broken))).sum())
