"""The rows of the suites: what they compare, their targets, and how long they take.

The estimates of the GPU rows are for one H100, and mostly what compilers take. The rows before "flags" are to fit a
command of ten minutes together; the others, which compile large networks once more, another one.
"""

from benchmarks.row import Row, at_least, at_most, exactly

_COUNTS = ("jaxpr equations", "compiled operations", "flops", "bytes accessed")

CPU = (
    Row(
        "C1", "a stage made of a stepper / the same stage written by hand", "benchmarks.abstraction:abstraction",
        {f"{scheme}: {what}": exactly(1) for scheme in ("euler", "lm") for what in _COUNTS}
        | {f"{scheme}: time": at_most(1.03) for scheme in ("euler", "lm")},
        seconds=60,
    ),
    Row(
        "C2", "lmjax.odeint beside diffrax, a neural field with a fixed step", "benchmarks.solvers:solve",
        {f"{method}, forward: diffrax / ours": at_least(1.1) for method in ("euler", "rk4")}
        | {f"{method}, forward and backward: diffrax / ours": at_least(1.5) for method in ("euler", "rk4")}
        | {
            f"{method}, {kind}: compilation, ours / diffrax": at_most(0.5)
            for method in ("euler", "rk4") for kind in ("forward", "forward and backward")
        },
        seconds=90, needs=("diffrax",),
    ),
    Row(
        "C3", "compile time of the step of LM-ResNet-110 / LM-ResNet-20", "benchmarks.compiled:compile_time",
        {
            "rolled: deep / shallow": at_most(1.5),
            "unrolled: deep / shallow": at_most(6),
            "deep unrolled: warm cache / cold": at_most(0.3),
        },
        seconds=600,
    ),
    Row(
        "C4", "a float32 step of LM-ResNet-20 beside PyTorch eager, channels_last", "benchmarks.train_step:on_cpu",
        {f"batch {batch}: ours / PyTorch": at_most(1.4) for batch in (32, 128)},
        seconds=120,
    ),
    Row(
        "C5", "memory of the gradient against depth", "benchmarks.memory:slope",
        {
            "unrolled: memory a block": at_most(4.5),
            "remat: memory a block": at_most(1.3),
            "reversible: memory a block": at_most(0.05),
        },
        seconds=120,
    ),
    Row("flags", "a step of LM-ResNet-20 under XLA's flags", "benchmarks.flags:on_cpu", {}, seconds=60),
    Row("seeds", "two LM-ResNet-20 at once at batch 128 over one", "benchmarks.seeds:on_cpu", {}, seconds=60),
    Row("depth", "compile time and memory of the step against depth", "benchmarks.compiled:depths", {}, seconds=600),
)  # fmt: skip

GPU = (
    Row(
        "G1", "a step of LM-ResNet-110 at batch 128 beside PyTorch's, two styles", "benchmarks.train_step:launches",
        {"authors' style / ours": at_least(3), "best PyTorch / ours": at_least(1)},
        seconds=150, needs=("torch",),
    ),
    Row(
        "G2", "steps of LM-ResNet-20 and -110 at batch 1024 in bfloat16", "benchmarks.train_step:bandwidth",
        {
            "resnet20: an image": at_most(2.6),
            "resnet110: an image": at_most(16),
            "resnet20: best PyTorch / ours": at_least(1),
        },
        seconds=90,
    ),
    Row(
        "G3", "what the LM step adds to ResNet-110 at batch 1024", "benchmarks.train_step:lm_overhead",
        {"lm / euler": at_most(1.12)}, seconds=40,
    ),
    Row(
        "G7", "a step of ResNet-50 at batch 256 in bfloat16 beside torchvision's", "benchmarks.train_step:imagenet",
        {"torchvision / ours": at_least(1), "ours: images a second": at_least(6000)}, seconds=110,
    ),
    Row(
        "G8", "RevNet-110: stored, recomputed and rebuilt activations", "benchmarks.memory:reversible",
        {
            "memory, stored / reversible": at_least(8),
            "time, reversible / stored": at_most(1.45),
            "memory, reversible: 110 / 38 layers": at_most(1.15),
            "gradient error, reversible": at_most(1e-4),
        },
        seconds=70,
    ),
    Row(
        "G6", "several LM-ResNet-20 at once at batch 128 over one", "benchmarks.seeds:on_gpu",
        {"images/s of the best / one": at_least(2)}, seconds=40,
    ),
    Row(
        "G4", "an epoch of LM-ResNet-20 at batch 128 over as many bare steps", "benchmarks.epochs:overhead",
        {"epoch / bare steps": at_most(1.05)}, seconds=30,
    ),
    Row(
        "G5", "the published recipe of LM-ResNet-20, projected from epochs", "benchmarks.epochs:recipe",
        {"160 epochs, projected": at_most(90), "authors' steps alone / all of ours, projected": at_least(5)},
        seconds=15,
    ),
    Row(
        "G9", "grouped over dense convolutions, as many multiplications", "benchmarks.train_step:groups",
        {"grouped / dense": at_most(1.35)}, seconds=35,
    ),
    Row("flags", "a step of LM-ResNet-110 under XLA's flags", "benchmarks.flags:on_gpu", {}, seconds=370),
    Row(
        "G2-deep", "LM-ResNet-110 at batch 1024 beside PyTorch's best", "benchmarks.train_step:bandwidth_deep",
        {"best PyTorch / ours": at_least(1)}, seconds=150, needs=("torch",),
    ),
    Row(
        "G5-deep", "the published recipe of LM-ResNet-110, projected", "benchmarks.epochs:recipe_deep",
        {"160 epochs, projected": at_most(300)}, seconds=70,
    ),
    Row(
        "G7-lm", "what the LM step adds to ResNet-50", "benchmarks.train_step:imagenet_lm",
        {"lm / euler": at_most(1.1)}, seconds=80,
    ),
)  # fmt: skip

COMPILED = (
    Row(
        "E1", "the step of LM-ResNet-20 for an H100, beside Euler's and in float32", "benchmarks.programs:on_gpu",
        {
            "lm: kernels": at_most(260),
            "lm: bytes moved / the plain form": at_most(1.15),
            "lm: float32 feature maps": exactly(0),
        },
        seconds=120, needs=("jax_cuda12_plugin",),
    ),
    Row(
        "E2", "the step of LM-ResNet-110 for an H100, unrolled and rolled", "benchmarks.programs:deep_on_gpu",
        {
            "unrolled: kernels": at_most(1150),
            "unrolled: bytes moved / the plain form": at_most(1.15),
            "unrolled: float32 feature maps": exactly(0),
        },
        seconds=240, needs=("jax_cuda12_plugin",),
    ),
    Row(
        "E3", "the step of ResNet-50 for an H100, LM beside Euler", "benchmarks.programs:photographs_on_gpu",
        {"lm: float32 feature maps": exactly(0)}, seconds=240, needs=("jax_cuda12_plugin", "grain"),
    ),
    Row(
        "E4", "the step of LM-ResNet-20 for a TPU v5e, beside Euler's and in float32", "benchmarks.programs:on_tpu",
        {
            "lm: estimated cycles an image": at_most(12_500),
            "lm / euler: cycles, or bytes": at_most(1.02),
            "lm: compilation": at_most(25),
        },
        seconds=300, needs=("libtpu",),
    ),
    Row(
        "E5", "cycles an image of LM-ResNet-20 on a v5e against the batch", "benchmarks.programs:batches_on_tpu", {},
        seconds=400, needs=("libtpu",),
    ),
    Row(
        "E6", "LM-ResNet-20 on 4, 16 and 256 chips, 128 images each", "benchmarks.programs:chips",
        {"4x4: all-reduce": at_most(25)}, seconds=300, needs=("libtpu",),
    ),
    Row(
        "E7", "ResNets / the same ones in Flax NNX alone, for an H100", "benchmarks.programs:plain_on_gpu",
        {"resnet50: bytes moved": at_most(0.85)}, seconds=400, needs=("jax_cuda12_plugin", "grain"),
    ),
    Row(
        "E8", "ResNets / the same ones in Flax NNX alone, for a TPU v5e", "benchmarks.programs:plain_on_tpu",
        {"resnet50: estimated cycles": at_most(0.95)}, seconds=600, needs=("libtpu", "grain"),
    ),
)  # fmt: skip

SUITES = {"cpu": CPU, "gpu": GPU, "compiled": COMPILED}
