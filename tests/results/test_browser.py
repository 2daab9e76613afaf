"""The page in a real browser: Chromium without a window, driven by selenium. Neither is needed for anything else."""

import json
import shutil

import pytest

from lmjax.results import report
from lmjax.results.published import CIFAR10
from tests.results.handmade import CONFIG, make_run
from tests.tiny import changed

pytestmark = pytest.mark.slow

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    binary = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def place(runs, tmp_path_factory):
    """A report on real runs, and on others with all that a table may have to hold."""
    root = tmp_path_factory.mktemp("report")
    evil = "<img src=x onerror=\"document.title='evil'\">"
    long = "a_name_that_is_longer_than_a_phone_is_wide" * 3
    made = [
        make_run(root / "a", changed(CIFAR10["lm_resnet20"].config, train={"epochs": 8}), error=10.25),
        make_run(root / "b", CIFAR10["lm_resnet110"].config, epochs=5, error=9.5),
        make_run(root / evil, changed(CONFIG, model={"stepper": "rk4"}), error=2.0, parameters=100_000),
        make_run(root / long, changed(CONFIG, model={"stepper": "heun"}), epochs=0),
    ]
    return report.write([runs["lm"], runs["euler"], *made], root / "report.html").as_uri()


def show(browser, place, *, width=1280, scheme="light"):
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(place)


def test_nothing_is_requested_and_nothing_goes_wrong(browser, place):
    show(browser, place)
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [entry["params"]["request"]["url"] for entry in asked if entry["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [place]
    assert browser.get_log("browser") == []
    assert "evil" not in browser.title.replace("document.title='evil'", "")


def test_pictures_are_there(browser, place):
    show(browser, place)
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('svg.plot, img')].map(x => {"
        "const box = x.getBoundingClientRect();"
        "return [x.tagName, box.width, box.height, x.naturalWidth ?? 1]})"
    )
    assert sum(tag == "svg" for tag, *_ in sizes) >= 2 * 2 + 2  # curves of two data sets, error, coefficients
    assert sum(tag == "IMG" for tag, *_ in sizes) > 10
    assert all(width > 40 and height > 40 and natural > 0 for _, width, height, natural in sizes)
    # Nothing that is written sticks out of its picture.
    outside = browser.execute_script(
        "return [...document.querySelectorAll('svg.plot')].flatMap(svg => { const b = svg.getBoundingClientRect();"
        "return [...svg.querySelectorAll('text')].filter(t => { const r = t.getBoundingClientRect();"
        "return r.left < b.left - 2 || r.right > b.right + 2 || r.top < b.top - 2 || r.bottom > b.bottom + 2 })"
        ".map(t => t.textContent)})"
    )
    assert outside == []


def column(browser, name):
    return browser.execute_script(
        "const heads = [...document.querySelectorAll('.runs thead th')];"
        "const at = heads.findIndex(x => x.innerText.trim() === arguments[0]);"
        "return [...document.querySelectorAll('.runs tbody tr')].map(row => row.cells[at].dataset.value)",
        name,
    )


@pytest.mark.parametrize("name", ["test error, %", "parameters", "run"])
def test_heads_sort_by_mouse_and_keyboard(browser, place, name):
    show(browser, place)
    before = column(browser, name)
    known, unknown = [x for x in before if x != ""], [x for x in before if x == ""]
    button = browser.execute_script(
        "return [...document.querySelectorAll('.runs button')].find(x => x.innerText.trim() === arguments[0])", name
    )

    def head():
        return browser.execute_script("return arguments[0].closest('th').getAttribute('aria-sort')", button)

    assert head() == "none"
    button.click()
    rising = column(browser, name)
    assert head() == "ascending"
    button.send_keys("\ue007")  # Enter
    falling = column(browser, name)
    assert head() == "descending"
    if name == "run":  # in the order of the reader's language
        assert rising == falling[::-1] != before
    else:
        assert rising == sorted(known, key=float) + unknown
        assert falling == sorted(known, key=float, reverse=True) + unknown
        assert unknown or name != "test error, %"
    sorted_by = "return document.querySelectorAll('.runs [aria-sort]:not([aria-sort=none])').length"
    assert browser.execute_script(sorted_by) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(browser, place, scheme):
    show(browser, place, width=390, scheme=scheme)
    browser.execute_script("document.querySelectorAll('details').forEach(x => x.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    small = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('svg.plot text')].map(t => {"
        "const m = t.getScreenCTM(); return parseFloat(getComputedStyle(t).fontSize) * Math.hypot(m.a, m.b)}))"
    )
    assert small > 8.5  # pixels


def luminance(color):
    parts = [float(x) / 255 for x in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def colors(browser, where, style):
    """The luminances of what is found there."""
    look = "return [...document.querySelectorAll(arguments[0])].map(x => getComputedStyle(x)[arguments[1]])"
    return list(map(luminance, browser.execute_script(look, where, style)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_paper_is_light(browser, place, scheme):
    show(browser, place, scheme=scheme)
    (ground,) = colors(browser, "body", "backgroundColor")
    assert (ground < 0.1) == (scheme == "dark")
    for where, style, ratio in (
        ("body", "color", 7), (".note", "color", 4.5), ("summary", "color", 4.5), ("svg.plot text", "fill", 7),
        (".legend line", "stroke", 3),
    ):  # fmt: skip
        found = colors(browser, where, style)
        assert found
        for color in found:
            light, dark = max(color, ground) + 0.05, min(color, ground) + 0.05
            assert light / dark >= ratio, (where, scheme)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert colors(browser, "body", "backgroundColor")[0] > 0.9
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen"})
