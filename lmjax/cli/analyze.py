"""`lmjax analyze`: schemes as numerical methods, and what trained networks do with them."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tyro.conf import Positional

from lmjax import analysis, command_line, files
from lmjax.analysis import network_figures, robustness, trajectory
from lmjax.analysis.amplification import is_of_second_order
from lmjax.analysis.learned import read_one, require_alike
from lmjax.analysis.refinement import refinements, require_refinable
from lmjax.analysis.runs import Measured, as_json, grouped, measured
from lmjax.analysis.walk import require_steps
from lmjax.console import say, warn
from lmjax.errors import InputError
from lmjax.results import plots
from lmjax.results.coefficients import changes, last_weights
from lmjax.results.runs import groups, labels, metrics
from lmjax.results.statistics import Spread, difference, holm, spread

_MOST = 1024  # steps for one: the time that they take grows with them

Draw = Callable[[], Any]
"""Makes a figure."""


class _Analysis(command_line.Command):
    config: Path | None = None
    """A Python file to run first, which registers schemes of your own."""
    out: Path | None = None
    """The picture to write: .png, .svg, .pdf, ..."""

    def run(self) -> None:
        """Print what is found, and draw it if that is wanted."""
        picture = self.picture
        if picture is not None:
            plots.require_place(picture, "--out")
        command_line.start_alone(self.config)
        draw = self.show()
        if picture is not None:
            _save(draw(), picture)

    @property
    def picture(self) -> Path | None:
        """The file of the picture."""
        return self.out

    def show(self) -> Draw:
        """Print what is found."""
        raise NotImplementedError


class _OfSchemes(_Analysis):
    schemes: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="SCHEME")] = ()
    """As --model.stepper takes them: rk4, "lm(-0.5, -0.5)", ..."""
    k: float | None = None
    """The coefficient of lm and of others that have one; else the mean of its initial values."""

    def chosen(self) -> list[analysis.Scheme]:
        """The schemes."""
        command_line.require_some(self.schemes, "SCHEME")
        if self.k is not None and not math.isfinite(self.k):
            raise InputError(f"--k: must be a finite number, got {self.k}")
        chosen = analysis.schemes(self.schemes, self.k)
        if self.k is None and any(scheme.coef is not None for scheme in chosen):
            say("Coefficients have the mean of their initial distribution; --k gives another.")
        return chosen


class Order(_OfSchemes):
    """The order of accuracy that schemes show.

    Integrates a linear and a nonlinear equation with smaller and smaller steps, in float64, and fits the slope of the
    error against the step size.
    """

    def show(self) -> Draw:
        chosen = self.chosen()
        found = {
            problem: {s.label: analysis.observed_order(s.stepper, s.coef, problem=problem) for s in chosen}
            for problem in (analysis.LINEAR, analysis.NONLINEAR)
        }
        head = ["scheme", "claimed", *(f"observed, {problem.name}" for problem in found)]
        rows = [[s.label, s.stepper.known.order, *(results[s.label] for results in found.values())] for s in chosen]
        _print_table([head, *rows])
        return lambda: analysis.draw_orders(found)


class _OfSchemesOrRun(_OfSchemes):
    folder: Annotated[str | None, tyro.conf.arg(name="run", metavar="RUN")] = None
    """The folder of a run, for its learned steps; those of several seeds of one, for modified-equation."""

    def show(self) -> Draw:
        if bool(self.schemes) == (self.folder is not None):
            raise InputError("give schemes, such as rk4, or the folder of a run by --run")
        if self.folder is not None and self.k is not None:
            raise InputError("--k: a run has coefficients of its own: leave it out")
        return self.show_schemes() if self.folder is None else self.show_run()


class Stability(_OfSchemesOrRun):
    """The stability regions of schemes, or of the learned steps of a run.

    Finds where in the plane of z = h lambda a scheme is stable on u' = lambda u, its real and imaginary intervals, and
    whether it is zero-stable. It is the equation that the scheme integrates: lm, for which it is (1 + k) u' = F, is
    given the branch (1 + k) z u.
    """

    z: Literal["equation", "branch"] = "equation"
    """z is h lambda of the equation, or the branch is z u."""

    def show_schemes(self) -> Draw:
        chosen = self.chosen()
        self._print(chosen)
        return lambda: analysis.draw_regions(chosen, damped=self.z == "equation")

    def show_run(self) -> Draw:
        learned = read_one(self.folder)
        stages = learned.schemes()
        found = self._print([scheme for schemes in stages.values() for scheme in schemes])
        outside = sum(not result.zero_stable for result in found)
        say(f"\n{outside} of {len(found)} learned steps are not zero-stable")
        return lambda: analysis.draw_learned_regions(stages, damped=self.z == "equation", title=learned.name)

    def _print(self, chosen: Sequence[analysis.Scheme]) -> list[analysis.LinearStability]:
        damped = self.z == "equation"
        found = [analysis.linear_stability(s.stepper, s.coef, damped=damped) for s in chosen]
        equation, branch = "h lambda of the equation that the scheme integrates", "the slope of the branch, f(u) = z u"
        say(f"z is {equation if damped else branch}\n")
        rows = [["scheme", "real, from", "imaginary, to", "principal root", "largest parasitic root", "zero-stable"]]
        for scheme, of in zip(chosen, found, strict=True):
            numbers = (f"{0 - of.real:.6g}", f"±{of.imaginary:.6g}", f"{of.principal:.4g}", f"{of.parasitic:.4g}")
            rows.append([scheme.label, *numbers, "yes" if of.zero_stable else "no"])
        _print_table(rows)
        return found


class ModifiedEquation(_OfSchemesOrRun):
    """The equation that schemes, or the learned steps of runs, solve instead.

    Finds the series of the rate with which a scheme solves u' = lambda u: lambda (c0 + c1 z + c2 z^2 + ...) with
    z = h lambda. With --run, what the learned k make of (1 + k) u' + (1 - k) (h/2) u'' = F(u), along the depth of a
    network.
    """

    def show_schemes(self) -> Draw:
        chosen = self.chosen()
        say("u' = lambda u is solved with the rate lambda (c0 + c1 z + c2 z^2 + ...), z = h lambda")
        for scheme in chosen:
            if is_of_second_order(scheme.stepper, scheme.coef):
                say(f"{scheme.label} is a scheme for u'' = F: it is given u'' = lambda^2 u")
        say("")
        rows = []
        for scheme in chosen:
            c = analysis.modified_rate(scheme.stepper, scheme.coef)
            rows.append([scheme.label, analysis.rate_order(c), *(f"{x:.6g}" for x in c)])
        _print_table([["scheme", "order of the rate", *(f"c{j}" for j in range(len(c)))], *rows])
        return lambda: analysis.draw_rates(chosen)

    def show_run(self) -> Draw:
        runs = analysis.read_learned(self.folder)
        for learned in runs:
            if learned.stepper.known.family != "lm":
                raise InputError(f"{learned.directory}: is a run of {learned.stepper.name}: give one of lm")
        require_alike(runs)
        say("(1 + k) u' + (1 - k) (h/2) u'' = F(u), with friction 1 + k and mass (1 - k)/2\n")
        rows = [["run, stage, learned step", "k", "friction", "mass", "speed"]]
        for learned in runs:
            for stage, k in learned.k().items():
                for n, x in enumerate(k[-1], start=1):
                    friction, mass = analysis.friction_and_mass(x)
                    name = f"{learned.directory.name}, {stage}, {n}"
                    speed = f"{1 / friction:.4f}" if friction else "inf"
                    rows.append([name, f"{x:.4f}", f"{friction:.4f}", f"{mass:.4f}", speed])
        _print_table(rows)
        return lambda: analysis.draw_friction_and_mass(runs, runs[0].name)


class _OfRuns(_Analysis):
    runs: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """The folder of a run, or of several seeds of one."""

    def run(self) -> None:
        command_line.require_some(self.runs, "RUN")
        super().run()


class Coefficients(_OfRuns):
    """The learned coefficients of runs.

    Draws the learned coefficients of runs of one network against depth and through the epochs, and says how far they
    are from the edge of zero-stability, and whether k jumps up after the boundaries of stages and falls at the end, as
    Lu et al. (2018) found (p: paired t-test, corrected by Holm's method for these places).
    """

    def show(self) -> Draw:
        runs = analysis.read_learned(self.runs)
        require_alike(runs)
        margins = [run.margins() for run in runs]
        weights = last_weights(runs)
        rows = [["learned step", *weights, *(["std of the runs"] * (len(runs) > 1)), "margin of zero-stability"]]
        for stage, least in margins[0].items():
            for n in range(len(least)):
                values = {name: stages[stage][:, n] for name, stages in weights.items() if stage in stages}
                means = (f"{np.mean(values[name]):.4f}" if name in values else "" for name in weights)
                deviation = [f"{max(np.std(x, ddof=1) for x in values.values()):.4f}"] if len(runs) > 1 else []
                rows.append([f"{stage}, {n + 1}", *means, *deviation, f"{min(each[stage][n] for each in margins):.4f}"])
        say(f"{runs[0].name}: after epoch {' and '.join(sorted({str(run.epochs[-1]) for run in runs}))}\n")
        _print_table(rows)
        if "k" in weights:
            _print_changes(weights["k"])
        every = np.concatenate([x for each in margins for x in each.values()])
        say(f"\n{np.sum(every < 0)} of {every.size} learned steps are not zero-stable")
        return lambda: analysis.draw_coefficients(runs, runs[0].name)


def _print_changes(k: Mapping[str, np.ndarray]) -> None:
    """Print how k changes at the boundaries and at the end: mean and interval over the runs, p corrected for all."""
    found = {
        place: difference(dict(enumerate(after)), dict(enumerate(before)))
        for place, (before, after) in changes(k).items()
    }
    corrected = holm([1.0 if x.p is None else x.p for x in found.values()])
    rows = [["change of k", "mean", "95% interval", "p (Holm)", "down in"]]
    for (place, x), p in zip(found.items(), corrected, strict=True):
        rows.append([place, f"{x.mean:+.2f}", x.ends(2), "" if x.p is None else f"{p:.1g}", f"{x.below} of {x.count}"])
    if found:
        say("")
        _print_table(rows)


class Curves(_OfRuns):
    """The learning curves of runs, in one picture.

    Draws test error and training loss of runs against the epoch, from their metrics alone.
    """

    def show(self) -> Draw:
        found = groups(self.runs)
        names = labels([runs[0] for runs in found], [runs[0].title for runs in found])
        if len(names) > 3 * len(plots.COLORS):
            raise InputError(f"curves: {len(names)} runs cannot be told apart in one picture: draw fewer")
        rows, tables = [["run", "seeds", "epochs", *plots.MEASURES]], {}
        for name, runs in zip(names, found, strict=True):
            behind = min(runs, key=lambda run: len(run.epochs))
            if not behind.epochs:
                raise InputError(f"{behind.record.directory}: has no epoch yet: wait for the first")
            table, last = metrics(runs), len(behind.epochs)  # they end where the seed that is farthest behind does
            tables[name] = table[table.epoch <= last]
            means = table[table.epoch == last].mean(numeric_only=True)
            rows.append([name, len(runs), last, *(f"{means[column]:.4g}" for column in plots.MEASURES.values())])
        _print_table(rows)
        data = " and ".join(dict.fromkeys(runs[0].data for runs in found))
        return lambda: _draw_curves(tables, data)


def _draw_curves(tables: dict[str, Any], title: str) -> Any:
    figure = plots.figure(10, 4)
    panels = figure.subplots(1, len(plots.MEASURES))
    for axes, (label, column) in zip(panels, plots.MEASURES.items(), strict=True):
        plots.learning_curves(axes, tables, column, label)
    panels[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(plots.plain(title), fontsize=10)
    return figure


class _OfNetworks(_OfRuns):
    runs: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """The folder of a run, or of several seeds of one; or weights, a .safetensors file of `lmjax.weights`."""
    at: str = "latest"
    """The checkpoint: latest, best, or a step."""
    images: int = 1000
    """How many test images, drawn by the seed."""
    seed: int = 0
    """Draws the images, and all else that is random."""
    data: str | None = None
    """The data set for weights, as --data.name takes it: "photographs(224)"."""
    data_dir: str | None = None
    """The folder of the data, if it has moved, or of that for weights."""
    out: Path | None = None
    """The picture to write, with the numbers beside it as .json, or the numbers; or a folder for both."""

    def run(self) -> None:
        if self.images < 1:
            raise InputError(f"--images: must be at least 1, got {self.images}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed: must be from 0 to 2**32 - 1, got {self.seed}")
        super().run()

    @property
    def picture(self) -> Path | None:
        if self.out is None:
            return None
        if self.out.is_dir():
            return self.out / f"{self.__class__.__name__.lower()}.png"
        return self.out.with_suffix(".png") if self.out.suffix.lower() == ".json" else self.out

    def measured(self, measure: Callable[..., Any], require: Callable[..., None] | None = None) -> list[Measured]:
        """Every run, measured on the same images; see `lmjax.analysis.runs.measured`."""
        how = {"images": self.images, "at": self.at, "seed": self.seed, "data": self.data, "data_dir": self.data_dir}
        return measured(self.runs, measure, require, **how)

    def write(self, results: list[Measured], **others: Any) -> None:
        """Write the numbers beside the picture."""
        if self.picture is None:
            return
        path = self.picture.with_suffix(".json")
        with files.writing(path, "--out"):
            files.write(path, as_json(results, **others))
        say(f"numbers: {path}")


class Trajectory(_OfNetworks):
    """Paths of the features through the steps of trained networks.

    Follows test images through the steps: how far each step goes, how much of that its branches add, how it turns, how
    long the path is against the straight line.
    """

    images: int = 256
    """How many test images, drawn by the seed."""
    classes: int = 0
    """Draw the paths of four images of each of so many classes, too (2 to 7), in the plane of most variance of the last
    stage: to FILE_plane."""

    def show(self) -> Draw:
        self._require_classes()
        planes = {}

        def measure(trained, images, labels):
            if self.classes:
                chosen = _few_of_each(labels, self.classes)
                names = [trained.classes[i] for i in labels[chosen]]
                planes[str(trained.record.directory)] = (*trajectory.plane(trained, images[chosen]), names)
            return {"stages": trajectory.trajectories(trained, images)}

        results = self.measured(measure, require_steps)
        groups = grouped(results, "stages")
        _print_trajectories(groups)
        self.write([Measured(r.label, r.about, {"stages": trajectory.summary(r.values["stages"])}) for r in results])
        if planes:
            first = {result.label: planes[result.about["run"]] for result in reversed(results)}
            drawn = [(label, *first[label]) for label in groups]
            _save(network_figures.planes(drawn), self.picture.with_stem(f"{self.picture.stem}_plane"))
        return lambda: network_figures.trajectories(groups)

    def _require_classes(self) -> None:
        """Raise InputError if there is no color for so many classes, or nowhere to draw them."""
        if self.classes and not 2 <= self.classes <= len(plots.COLORS):
            raise InputError(f"--classes {self.classes}: give 2 to {len(plots.COLORS)}, as there are colors")
        if self.classes and self.out is None:
            raise InputError("--classes: is a picture, and needs --out FILE")


def _few_of_each(labels: np.ndarray, classes: int) -> np.ndarray:
    """The indices of the first four images of the first classes that there are."""
    return np.concatenate([np.flatnonzero(labels == label)[:4] for label in np.unique(labels)[:classes]])


def _print_trajectories(groups: dict[str, list[Any]]) -> None:
    """Print a line for each stage: means over the steps, the images, and the seeds."""
    rows = [("stage", "steps", "distance", "branches", "turn", "growth of norm", "tortuosity")]
    for label, seeds in groups.items():
        for name in seeds[0]:
            stages = [seed[name] for seed in seeds]
            keys = ("distance", "branch", "tortuosity")
            distance, branch, tortuosity = (f"{np.mean([np.mean(each[key]) for each in stages]):.3f}" for key in keys)
            growth = np.mean([np.mean(each["norm"][-1] / each["norm"][0]) for each in stages])
            turns = [np.mean(each["turn"]) for each in stages if len(each["turn"])]
            turn = f"{np.mean(turns):.0f}°" if turns else ""
            steps = len(stages[0]["distance"])
            rows.append((f"{label}: {name}", steps, distance, branch, turn, f"{growth:.2f}", tortuosity))
    say("")
    _print_table(rows)


class Refinement(_OfNetworks):
    """Refinement: trained networks with smaller and more steps.

    Replaces each step of trained networks, but for the first of a stage, by m steps with the branch f/m and the same
    coefficients, or leaves steps out and lengthens the others (1/2): the accuracy, and how far the features move. Batch
    normalization keeps the statistics of the training.
    """

    factors: Annotated[tuple[str, ...], tyro.conf.arg(metavar="M ...")] = ("1", "2", "4")
    """Steps for one; 1/2 to coarsen."""

    def show(self) -> Draw:
        factors = sorted({Fraction(1), *map(_factor, self.factors)})
        results = self.measured(
            lambda trained, images, labels: {"factors": refinements(trained, images, labels, factors)},
            require_refinable if len(factors) > 1 else require_steps,
        )
        groups = grouped(results, "factors")
        _print_refinements(groups)
        self.write(results)
        return lambda: network_figures.refinements(groups, factors)


def _factor(text: str) -> Fraction:
    match = re.fullmatch(r"(1/)?([0-9]{1,9})", text)
    count = int(match[2]) if match else 0
    if not 1 <= count <= _MOST:
        raise InputError(f"--factors {text!r}: give a whole number up to {_MOST}, or 1/2, 1/3, ... to coarsen")
    return Fraction(1, count) if match[1] else Fraction(count)


def _print_refinements(groups: dict[str, list[dict[str, dict[str, float]]]]) -> None:
    """Print a line for each factor: means over the seeds."""
    rows = [("steps for one", "accuracy", "agreement", "features moved by", "logits", "features since the line before")]
    for label, seeds in groups.items():
        for number, factor in enumerate(seeds[0]):
            mean = {key: np.mean([seed[factor][key] for seed in seeds]) for key in seeds[0][factor]}
            since = f"{mean['change']:.1%}" if number else ""
            shares = (f"{mean[key]:.1%}" for key in ("accuracy", "agreement", "features", "logits"))
            rows.append((f"{label}: {factor}", *shares, since))
    say("")
    _print_table(rows)


class Robustness(_OfNetworks):
    """The accuracy of trained networks on perturbed images.

    Accuracy under Gaussian noise, FGSM and PGD, in gray levels (1/255) and in the maximum norm; with signs that tell
    whether the attack can be trusted.
    """

    radii: Annotated[tuple[float, ...], tyro.conf.arg(metavar="R ...")] = robustness.RADII
    """Of the attacks."""
    sigmas: Annotated[tuple[float, ...], tyro.conf.arg(metavar="S ...")] = robustness.SIGMAS
    """Of the noise."""

    def show(self) -> Draw:
        for name, levels in (("--radii", self.radii), ("--sigmas", self.sigmas)):
            if wrong := [level for level in levels if not 0 < level <= 255]:  # NaN, too
                raise InputError(f"{name} {wrong[0]:g}: give gray levels, above 0 and up to 255")
        radii, sigmas = sorted({float(robustness.HEADLINE), *self.radii}), sorted({*self.sigmas})

        def measure(trained, images, labels):
            outcomes = robustness.attacked(trained, images, labels, radii=radii, sigmas=sigmas, seed=self.seed)
            return robustness.summary(outcomes)

        results = self.measured(measure)
        groups = grouped(results, "accuracy")
        together = {
            label: {name: spread(run[name] for run in group) for name in group[0]} for label, group in groups.items()
        }
        _print_robustness(together, sigmas, results)
        self.write(results, together=together)
        return lambda: network_figures.robustness(groups, radii, sigmas)


def _print_robustness(together: dict[str, Any], sigmas: Sequence[float], results: list[Measured]) -> None:
    """Print a line for each network, and what says that an attack cannot be trusted."""
    headline = robustness.HEADLINE
    columns = {"clean": "clean"} | {f"noise {s:g}": f"noise {s:g}" for s in sigmas}
    columns |= {f"fgsm {headline}": "FGSM", f"pgd10 {headline}": "PGD-10", f"pgd20 {headline}": "PGD-20"}
    rows = [(label, *(_percent(found[name]) for name in columns)) for label, found in together.items()]
    images = max(result.about["images"] for result in results)
    seeds = "" if len(results) == len(together) else ", ± their standard deviation over seeds"
    say(f"\naccuracies in %{seeds}; the attacks are within {headline}/255, the noise is in gray levels")
    say(f"(standard error of an accuracy on {images:,} images: at most {50 / images**0.5:.1f})")
    _print_table([("", *columns.values()), *rows])
    for result in results:
        for check in result.values["checks"].values():
            if check["passed"] is False:
                warn(f"warning: {result.about['run']}: {check['says']}")


def _percent(found: Spread) -> str:
    return f"{Spread(100 * found.mean, found.std and 100 * found.std):.1f}"


def _save(figure: Any, path: Path) -> None:
    """Write a picture, and say so."""
    with files.writing(path, "--out"):
        plots.save(figure, path)
    say(f"\npicture: {path}")


def _print_table(rows: Sequence[Sequence[Any]]) -> None:
    """Print rows of which the first is the head: a column of words, then columns of numbers."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        numbers = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        say("  ".join([f"{first:{widths[0]}}", *numbers]).rstrip())


COMMANDS = {
    "order": Order,
    "stability": Stability,
    "modified-equation": ModifiedEquation,
    "coefficients": Coefficients,
    "curves": Curves,
    "trajectory": Trajectory,
    "refinement": Refinement,
    "robustness": Robustness,
}
