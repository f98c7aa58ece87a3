"""The page in headless Chromium (Debian: chromium, chromium-driver); skipped where there is none."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from transformer.analysis.view import View

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium or its driver is not installed")

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,1000"
)
HOSTILE = "</script><script>document.title='stolen'</script> <img src=x onerror=\"document.title='stolen'\">"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def show(browser, tmp_path):
    """Opens a view with some options. At the end of the test the browser's console must be empty."""

    def show(view: View, **options):
        view.save(tmp_path / "view.html", **options)
        browser.get((tmp_path / "view.html").as_uri())
        return browser

    yield show
    # The browser's new-tab page, which was open before, may report a slow network.
    assert [entry for entry in browser.get_log("browser") if not entry["message"].startswith("chrome://")] == []


def lines(browser) -> list[tuple[str, str]]:
    """The head and the coordinates of each path."""
    script = "return [...document.querySelectorAll('.view path')].map(p => [p.dataset.head, p.getAttribute('d')])"
    return [tuple(path) for path in browser.execute_script(script)]


def texts(browser, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
    return browser.execute_script(script, selector)


def find(browser, selector: str):
    return browser.find_element("css selector", selector)


def hover(browser, selector: str) -> None:
    webdriver.ActionChains(browser).move_to_element(find(browser, selector)).perform()


def press(browser, *keys: str) -> None:
    names = webdriver.Keys
    webdriver.ActionChains(browser).send_keys(*(getattr(names, key) for key in keys)).perform()


def test_it_shows_tokens_weights_and_every_kind(show, view):
    browser = show(view, kind="encoder", layer=1)
    for kind in ("encoder", "decoder", "cross", "rollout"):
        browser.execute_script("document.querySelector(`#kinds input[value=${arguments[0]}]`).click()", kind)
        weights = view.weights[kind]
        layer = min(1, len(weights) - 1)
        assert texts(browser, ".queries bdi") == view.queries(kind).tokens
        assert texts(browser, ".keys bdi") == view.keys(kind).tokens
        assert len(texts(browser, "#layers label")) == len(weights)
        assert len(texts(browser, "#heads label")) == weights.shape[1]
        shown = np.array([int(text) for text in texts(browser, "tbody td")]).reshape(weights.shape[2:])
        np.testing.assert_allclose(shown, 100 * weights[layer].mean(0), atol=0.8)
        assert lines(browser)


def test_hovering_a_word_shows_its_lines(show, view):
    browser = show(view, kind="encoder")
    before = lines(browser)
    hover(browser, ".queries li:nth-child(2)")
    hovered = lines(browser)
    assert hovered != before
    starts = {course.split("C")[0] for _, paths in hovered for course in paths.split("M") if course}
    rows = {round((float(start.split()[1])) // 27) for start in starts}
    assert rows == {1}
    told = find(browser, "#told").text
    assert told.startswith(f"{view.source.tokens[1]} attends to")
    for head in range(4):
        row = view.weights["encoder"][1, head, 1]
        best = int(row.argmax())
        assert f"head {head}\n{view.source.tokens[best]} {round(100 * round(row[best] * 255) / 255)} %" in told
    hover(browser, ".keys li:nth-child(3)")
    assert "is attended to by" in find(browser, "#told").text
    hover(browser, "h1")
    assert lines(browser) == before
    hover(browser, "tbody tr:nth-child(2) td:nth-child(3)")
    assert lines(browser) == hovered


def test_the_keyboard_does_what_the_pointer_does(show, view):
    browser = show(view, kind="encoder", layer=0)
    hover(browser, "h1")
    before = lines(browser)
    find(browser, "#joined").send_keys("")
    press(browser, "TAB", "ARROW_DOWN", "ARROW_DOWN")
    focused = "return document.activeElement.textContent + document.activeElement.getAttribute('aria-selected')"
    assert browser.execute_script(focused) == f"{view.source.tokens[2]}true"
    moved = lines(browser)
    assert moved != before
    assert find(browser, "#told").text.startswith(f"{view.source.tokens[2]} attends to")
    press(browser, "ENTER", "TAB")  # pinned, although the focus moves on
    assert lines(browser) == moved
    browser.execute_script("document.querySelector('.queries li:nth-child(3)').click()")  # unpinned
    press(browser, "ARROW_UP")
    assert "is attended to by" in find(browser, "#told").text
    press(browser, "ESCAPE")
    assert lines(browser) == before


def test_heads_can_be_switched_off(show, view):
    browser = show(view, kind="encoder", layer=0)
    assert {head for head, _ in lines(browser)} == {"0", "1", "2", "3"}
    find(browser, "#heads input[value='1']").click()
    assert {head for head, _ in lines(browser)} == {"0", "2", "3"}
    expected = 100 * view.weights["encoder"][0][[0, 2, 3]].mean(0)
    shown = np.array([int(text) for text in texts(browser, "tbody td")]).reshape(expected.shape)
    np.testing.assert_allclose(shown, expected, atol=0.8)
    none, every = (f"//*[@id='heads']/button[.='{name}']" for name in ("none", "all"))
    browser.find_element("xpath", none).click()
    assert lines(browser) == []
    browser.find_element("xpath", every).click()
    assert {head for head, _ in lines(browser)} == {"0", "1", "2", "3"}
    assert {head for head, _ in lines(show(view, kind="encoder", head=2))} == {"2"}


def test_words_are_joined_as_in_python(show, view):
    browser = show(view, kind="cross")
    find(browser, "#joined").click()
    joined = view.joined()
    assert texts(browser, ".keys bdi") == joined.source.tokens
    shown = np.array([int(text) for text in texts(browser, "tbody td")])
    np.testing.assert_allclose(shown, 100 * joined.weights["cross"][0].mean(0).ravel(), atol=1.2)
    browser = show(view, kind="encoder", joined=True, word="its")
    assert find(browser, "#told").text.startswith("its attends to")
    assert find(browser, "[aria-selected=true]").text == "its"


def test_hostile_text_is_only_text(show, make_attention):
    hostile = make_attention(HOSTILE.split(" "), 1, 2)
    browser = show(View(**vars(hostile)), joined=True)
    assert find(browser, "#source").text == HOSTILE
    assert browser.title == "Attention"
    assert browser.find_elements("css selector", "img") == []
    for word in range(len(texts(browser, ".queries li"))):
        browser.execute_script("document.querySelectorAll('.queries li')[arguments[0]].click()", word)
    assert (browser.title, browser.find_elements("css selector", "img")) == ("Attention", [])


def test_it_lives_in_a_frame_as_notebooks_show_it(browser, view, tmp_path: Path):
    (tmp_path / "notebook.html").write_text(f"<!doctype html><title>x</title>{view._repr_html_()}", encoding="utf-8")
    browser.get((tmp_path / "notebook.html").as_uri())
    browser.switch_to.frame(find(browser, "iframe"))
    assert texts(browser, ".keys bdi") == view.source.tokens
    assert lines(browser)
    browser.switch_to.default_content()
    assert browser.get_log("browser") == []


def test_light_and_dark(show, view):
    browser = show(view)
    papers = []
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        papers.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert papers == ["rgb(255, 255, 255)", "rgb(21, 24, 29)"]
