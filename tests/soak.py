"""Kills a run at random moments, hundreds of times, and compares what it comes to with the run that was left alone.

    python -m tests.soak --cycles 300 --out benchmarks/results/soak.json
    python -m tests.soak --cycles 300 --seeds 2 --out benchmarks/results/soak_seeds.json

Every cycle starts train.py with --resume auto in a process of its own and ends it with SIGKILL, SIGTERM or SIGINT: in
four of five cycles within seconds (an eighth of the run at most) after training has begun, else at any moment since
its start. A run that comes to its
end is compared, bit for bit, and another one begins. It saves every other step, so that many kills hit a save.
"""

import collections
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

# Imported before the processes are forked, so that a cycle does not begin with seconds of it. JAX starts in each.
import jax
import numpy as np
import orbax.checkpoint  # noqa: F401
import tyro

import train
from lmjax import command_line, networks  # noqa: F401
from lmjax.training import Checkpoints, Trainer
from lmjax.training.run_folder import versions
from lmjax.training.run_record import seed_folders
from tests.tiny import rows, without_times

RUN = [
    "--config", "configs/digits.py", "--model.name", "resnet14", "--model.width", "0.25", "--train.batch-size", "128",
    "--model.stepper", "stochastic_depth(noise(lm, 0.01), 0.7)", "--train.average", "0.9",
    "--checkpoint.steps", "2",
]  # fmt: skip
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


def start(work, said: Path) -> int:
    """A process that does the work; returns its number."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    try:
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1), os.dup2(descriptor, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores for what is in its background
        os._exit(work() or 0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def ended(pid: int, options: int = 0) -> int | None:
    """With what a process has ended, negative for a signal; None if it has not."""
    found, status = os.waitpid(pid, options)
    return os.waitstatus_to_exitcode(status) if found else None


def outcome(workdir: Path) -> dict:
    """All that a finished run, or each seed of it, has come to.

    A sum of every array of its last checkpoint, and its rows without times.
    """

    def look_at(folder):
        config = command_line.load(folder / "config.json")
        with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
            state, about = checkpoints.restore(Trainer(config, config.data.load()).state)
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(jax.device_get(state)):
            digest.update(np.asarray(leaf).tobytes())
        lines, kept = [row["step"] for row in rows(folder)], without_times(about["rows"])
        return {"step": int(state.step), "arrays": digest.hexdigest(), "rows": kept, "lines": lines}

    def look():
        found = list(map(look_at, seed_folders(workdir) or [workdir]))
        joined = {key: [one[key] for one in found] for key in found[0]}
        (workdir / "outcome.json").write_text(json.dumps(joined))

    said = workdir.with_suffix(".outcome.txt")
    if ended(start(look, said)):
        raise SystemExit(said.read_text())
    return json.loads((workdir / "outcome.json").read_text())


def soak(cycles: int, seed: int, count: int, folder: Path) -> dict:
    """So many cycles, of so many seeds at once; returns how they have ended.

    Ends where a run has come to something else than the first.
    """
    rng, began = random.Random(seed), time.monotonic()
    alone, run = folder / "alone", [*RUN, "--train.epochs", str(max(1, 12 // count))]
    if count > 1:
        run += ["--seeds", f"0..{count - 1}"]
    if ended(start(lambda: train.main([*run, "--workdir", str(alone)]), folder / "alone.txt")):
        raise SystemExit((folder / "alone.txt").read_text())
    expected, summary = outcome(alone), (*seed_folders(alone), alone)[0] / "summary.json"
    seconds = json.loads(summary.read_text())["wall_seconds"]
    counts, finished, resumed_at = collections.Counter(), 0, set()
    workdir, said = folder / "run", folder / "run.txt"
    for cycle in range(1, cycles + 1):
        said.unlink(missing_ok=True)
        pid = start(lambda: train.main([*run, "--workdir", str(workdir), "--resume", "auto"]), said)
        code = None
        if rng.random() < 0.8:
            while (code := ended(pid, os.WNOHANG)) is None and "writing to" not in (
                said.read_text() if said.exists() else ""
            ):
                time.sleep(0.01)
        number = rng.choice(SIGNALS)
        end = time.monotonic() + rng.uniform(0, max(4, seconds / 8))
        while code is None and time.monotonic() < end:
            time.sleep(0.005)
            code = ended(pid, os.WNOHANG)
        if code is None:
            os.kill(pid, number)
            code = ended(pid)
            counts[f"{number.name}, ended with {code}"] += 1
        text = said.read_text() if said.exists() else ""
        if code not in (0, 130, 143, -signal.SIGKILL, -signal.SIGTERM) or "Traceback" in text:
            raise SystemExit(f"cycle {cycle} ended with {code}:\n{text}")
        resumed_at |= {line for line in text.splitlines() if line.startswith("going on")}
        if code == 0:
            found = outcome(workdir)
            if different := [key for key in expected if found[key] != expected[key]]:
                kept = shutil.copytree(folder, tempfile.mkdtemp(), dirs_exist_ok=True)
                raise SystemExit(f"cycle {cycle}: a run has come to other {', '.join(different)}; both are in {kept}")
            finished += 1
            print(f"{cycle} cycles: {finished} runs have come to the same bits", flush=True)
            shutil.rmtree(workdir)
    return {
        "cycles": cycles,
        "ends": dict(sorted(counts.items())),
        "runs_finished_with_the_same_bits": finished,
        "different_steps_gone_on_from": len(resumed_at),
        "seeds_at_once": count,
        "steps_of_a_run": expected["step"][0],
        "arrays": expected["arrays"],
        "seconds_of_the_undisturbed_run": round(seconds, 1),
        "seconds": round(time.monotonic() - began),
    }


def main(cycles: int = 300, seed: int = 0, seeds: int = 1, out: Path | None = None) -> None:
    """Kill runs, and compare what they come to.

    Args:
        cycles: starts of a run.
        seed: of the kills.
        seeds: networks trained side by side.
        out: where to write what is found, as JSON.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        results = soak(cycles, seed, seeds, Path(folder))
    command = f"python -m tests.soak --cycles {cycles} --seed {seed} --seeds {seeds}"
    results |= {"command": command, "cores": os.cpu_count(), "versions": versions()}
    print(json.dumps(results, indent=2))
    if out:
        out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m tests.soak", description=__doc__)
