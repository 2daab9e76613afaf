"""`lmjax estimate`."""

import dataclasses
import json
from collections.abc import Sequence

import jax

from lmjax import command_line
from lmjax.command_line import load, override, read
from lmjax.config import Config
from lmjax.console import say
from lmjax.estimate import Estimate, estimate, known, target
from lmjax.training.progress import padding


class EstimateRun(command_line.Command):
    """The programs of a run on accelerators that need not be there: memory, kernels, traffic, the compiler's cycles.

    Both programs of the run, training and evaluation, are compiled and read; nothing is run or timed. Keys of the
    config change what the file says, as for lmjax train. Targets: h100, h200, a100, h100:8, v5e, v5e:4x4, v6e:2x2, ...
    """

    config: str
    """The run, as lmjax train takes it."""
    target: tuple[str, ...]
    """The accelerators, one after another."""
    seeds: tuple[str, ...] | None = None
    """Seeds side by side, one on each device, as in 0 1 2 or 0..7."""
    json: bool = False
    """Print the figures as JSON."""

    @classmethod
    def start(cls, words: Sequence[str], prog: str) -> int:
        options, overrides = read(cls, words, prog=prog, return_unknown_args=True)
        command_line.seed_numbers(options.seeds)
        config = override(load(options.config), overrides, prog=f"{prog} --config {options.config}")
        options.run(config)
        return 0

    def run(self, config: Config) -> None:
        """Print the figures of each target."""
        jax.config.update("jax_platforms", "cpu")  # JAX must not look for the devices that are only described
        seeds, found = command_line.seed_numbers(self.seeds), []
        for name in self.target:
            where = target(name)
            for each in estimate(config, where, seeds=seeds):
                found.append(dataclasses.asdict(each))
                if not self.json:
                    say(text(each))
            warning = padding(config, len(where.devices) if seeds is None else 1, where.platform)
            if warning and not self.json:
                say(f"  {warning}")
        if self.json:
            say(json.dumps(found, indent=2))


def text(found: Estimate) -> str:
    """The figures of a program, to be read."""
    x, memory = found.summary, found.summary.memory
    about = known()[found.target.partition(":")[0]]
    what = "a step" if found.program == "train" else "a batch"
    kinds = ", ".join(f"{count:g} {dtype}" for dtype, count in x.convolutions.items())
    lines = [
        f"{found.program} on {found.target}: {found.devices} x {about['about']}; "
        f"{found.batch} images a device; compiled in {found.seconds:.0f} s, not run",
        f"  memory of a device: {_size(found.resident)} state and images, {_size(memory['between'])} in between, "
        f"{_size(memory['results'] - memory['donated'])} new results, of the {_size(found.memory)} that JAX takes: "
        f"{'fits' if found.fits else 'does not fit'}",
        f"  {what}: {x.kernels:,.0f} kernels, {_size(x.traffic)} moved"
        + (f", {x.traffic / found.plain_traffic:.2f} of the plain form" if found.plain_traffic else ""),
        f"  convolutions: {kinds or 'none'}; float32 feature maps in bfloat16: {x.wide_maps:g}; "
        f"feature maps copied or transposed: {x.moved_maps:g}",
    ]
    if x.collectives:
        kinds = ", ".join(f"{count:g} {kind} ({_size(size)})" for kind, (count, size) in x.collectives.items())
        lines.append(f"  collectives: {kinds}")
    if total := sum(x.cycles.values()):
        shares = ", ".join(f"{kind} {cycles / total:.0%}" for kind, cycles in x.cycles.items())
        lines.append(f"  cycles, XLA's estimate: {total:,.0f}, {total / found.batch:,.0f} an image: {shares}")
    return "\n".join(lines)


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            return f"{count / size:,.3g} {unit}"
    return f"{count:.0f} B"
