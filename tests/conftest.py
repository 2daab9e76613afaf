"""Eight devices on one CPU, for every test: what runs on one must give the same on eight."""

import os

from tests import UNOPTIMIZED

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {UNOPTIMIZED}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TQDM_DISABLE"] = "1"

import gc
import signal

import jax
import pytest
from filelock import FileLock

from lmjax import registry
from lmjax.training import train, train_seeds
from tests import tiny

os.chdir(tiny.ROOT)  # tests name files from there

# A shell ignores it for what runs in its background, tests included, and so would the processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

gc.set_threshold(2_000, 10, 50)  # what thousands of tests leave, the programs of JAX, is looked through less often


def pytest_addoption(parser):
    parser.addoption("--part", help="of the files with tests those of one part, as in 3/12, the fourth of twelve")


@pytest.hookimpl(trylast=True)  # after the marks
def pytest_collection_modifyitems(config, items):
    if config.getoption("part"):
        part, count = map(int, config.getoption("part").split("/"))
        files = sorted({str(item.path) for item in items})
        config.hook.pytest_deselected(items=[item for item in items if files.index(str(item.path)) % count != part])
        items[:] = [item for item in items if files.index(str(item.path)) % count == part]


def shared(tmp_path_factory):
    """A folder that all workers of this run of the tests have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Many tests compile the same small network: the second one finds it here, in any process. New for every run."""
    for name, value in (
        ("jax_compilation_cache_dir", str(shared(tmp_path_factory) / "compilation-cache")),
        ("jax_persistent_cache_min_compile_time_secs", 0),
    ):
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture
def x64():
    """float64, for the tests of numerical methods."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """What a test registers is gone after it."""
    for parts in registry.KINDS.values():
        monkeypatch.setattr(parts, "_makers", dict(parts._makers))


@pytest.fixture(autouse=True)
def cheap():
    """See `tiny.cheap`; `cheap.close()` ends it."""
    with tiny.cheap() as stack:
        yield stack


@pytest.fixture(scope="session")
def runs(tmp_path_factory, compilation_cache):
    """Finished runs on the digits, made once for all the tests that only look at runs.

    {"lm": the folder of seeds 0 and 1, "euler": the folder of one run}.
    """
    root = shared(tmp_path_factory) / "runs"
    root.mkdir(exist_ok=True)
    with FileLock(root / ".made"):
        for name in ("lm", "euler"):
            config = tiny.changed(tiny.config, model={"stepper": name}, workdir=str(root / name))
            if not (root / name / "summary.json").exists():
                train_seeds(config, [0, 1]) if name == "lm" else train(config)
    return {name: root / name for name in ("lm", "euler")}
