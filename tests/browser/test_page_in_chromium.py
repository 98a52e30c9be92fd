"""The page in the system's Chromium: run by `make test-browser`, not by `make test`."""

import base64
import io
import os
import shutil
import statistics
import subprocess
import time

import numpy as np
import pytest
import torch
from launch import TRAIN
from paths import ROOT
from PIL import Image

from cnnbp.data import user_pictures
from cnnbp.training.restore import restore
from cnnbp.views.page import LARGEST, write_page

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.browser

# strokes in pixels of the pad, 280 x 280: ten digits in ten styles
DRAWINGS = {
    "upright 1": [[(140, 40), (140, 240)]],
    "slanted 1": [[(175, 50), (110, 235)]],
    "1 with a flag": [[(100, 90), (150, 45), (150, 235)]],
    "7": [[(70, 60), (205, 60), (125, 235)]],
    "crossed 7": [[(70, 60), (205, 60), (125, 235)], [(100, 140), (190, 140)]],
    "0": [
        [(140, 45), (85, 80), (75, 150), (100, 220), (150, 235), (195, 190), (205, 110), (140, 45)]
    ],
    "4 in two strokes": [[(100, 50), (75, 145), (195, 145)], [(170, 60), (165, 240)]],
    "small 3": [
        [(115, 100), (150, 90), (165, 110), (135, 133), (165, 155), (150, 182), (115, 175)]
    ],
    "2": [[(80, 90), (115, 50), (170, 55), (185, 100), (130, 170), (75, 225), (210, 225)]],
    "low 6": [[(165, 70), (105, 130), (85, 200), (120, 250), (175, 235), (180, 190), (95, 190)]],
}


FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def trained_in(directory, *overrides):
    """Train in a process of its own; return the run directory."""
    own = ["name=page", "~callbacks.dashboard", "logger=none"]
    command = [*TRAIN, *own, *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True)
    return directory / "outputs" / "page"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory of the published network, trained for 250 steps, with its history."""
    return trained_in(
        tmp_path_factory.mktemp("runs"),
        "trainer=cpu",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=250",
        "callbacks.history.every_n_epochs=1",
    )


@pytest.fixture(scope="module")
def address(run):
    path = write_page(run)
    assert path.stat().st_size <= LARGEST
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


class Opened:
    """The page in a fresh window, and what it should not do: errors, warnings and requests."""

    def __init__(self, browser, address, script="", **options):
        self.context = browser.new_context(
            **{"viewport": {"width": 1600, "height": 1000}, **options}
        )
        self.tab = self.context.new_page()
        self.faults = []
        self.tab.on("console", self._on_console)
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.on("request", lambda request: self._on_request(request.url))
        if script:
            self.tab.add_init_script(script)
        self.tab.goto(address)
        self.tab.wait_for_selector("html[data-ready]", timeout=20_000)

    def _on_console(self, message):
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def _on_request(self, url):
        if not url.startswith(("file:", "data:", "blob:")):
            self.faults.append(url)

    def run(self, script, argument=None):
        return self.tab.evaluate(script, argument)

    def draw(self, strokes):
        """Draw by the mouse on a cleared pad."""
        self.tab.click("#clear")
        self.tab.locator("#pad").scroll_into_view_if_needed()
        box = self.tab.locator("#pad").bounding_box()
        for stroke in strokes:
            points = [
                (box["x"] + x * box["width"] / 280, box["y"] + y * box["height"] / 280)
                for x, y in stroke
            ]
            self.tab.mouse.move(*points[0])
            self.tab.mouse.down()
            for point in points[1:]:
                self.tab.mouse.move(*point, steps=6)
            self.tab.mouse.up()
        self.settle()

    def wait(self, condition, seconds=120):
        """Wait for an expression to be true; Playwright's own way needs eval, here forbidden."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.1)

    def settle(self):
        """Let what was asked for be shown."""
        self.run("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)))")

    def pixels(self):
        return np.array(self.run("Array.from(page.pixels)")).reshape(28, 28)

    def drawing(self):
        """The pad's sheet as a picture file would hold it."""
        address = self.run("pad.canvas.toDataURL('image/png')")
        return Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))


@pytest.fixture
def opened(browser, address):
    page = Opened(browser, address)
    yield page
    page.context.close()
    assert page.faults == []


@pytest.fixture(scope="module")
def trained(run):
    """The run's data, and its network in float32."""
    _, data, model = restore(run)
    data.setup("test")
    return data, model.network.eval()


@torch.no_grad()
def test_reads_300_test_images_as_the_network_does(opened, trained):
    data, network = trained
    images = data.splits["test"][0][:300]
    expected = network(data.prepare(images)).softmax(1).double()
    found = opened.run(
        "(images) => images.map((pixels) => Array.from(probabilitiesOf(pixels)))",
        images.flatten(1).tolist(),
    )
    found = torch.tensor(found, dtype=torch.float64)
    assert found.argmax(1).tolist() == expected.argmax(1).tolist()
    assert (found - expected).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", DRAWINGS)
def test_drawing_is_read_as_predict_reads_its_picture(opened, trained, name):
    data, network = trained
    opened.draw(DRAWINGS[name])
    prepared = user_pictures.prepare(opened.drawing())
    assert np.abs(opened.pixels() - prepared.numpy()).max() <= 1
    logits = network(data.prepare(prepared[None]))
    assert opened.run("page.read") == int(logits.argmax())


def test_is_quick(browser, address, record_property):
    ready = []
    for _ in range(3):
        page = Opened(browser, address)
        ready.append(float(page.tab.get_attribute("html", "data-ready")))
        page.context.close()
    page = Opened(browser, address)
    times = page.run("""() => {
        const input = asInput([page.pixels]);
        const runs = {forward: [], both: []};
        for (let run = 0; run < 41; run++) {
            const start = performance.now();
            const records = forward(page.network, input, [3], EVALUATION);
            const middle = performance.now();
            backward(records);
            runs.forward.push(middle - start);
            runs.both.push(performance.now() - start);
        }
        return runs;
    }""")
    page.context.close()
    found = {name: statistics.median(values) for name, values in times.items()}
    found["ready"] = min(ready)
    for name, value in found.items():
        record_property(name, value)
    print({name: f"{value:.0f} ms" for name, value in found.items()})
    # a busy machine may take any time: these are figures to read, not limits
    assert all(value > 0 for value in found.values())


def test_every_control_is_reached_by_the_keyboard(opened):
    opened.run("""() => {
        window.reached = new Set();
        document.addEventListener("focusin", ({target}) => window.reached.add(target));
    }""")
    for _ in range(140):
        opened.tab.keyboard.press("Tab")
    missed = opened.run("""() => {
        const all = document.querySelectorAll("button, input, select, canvas[tabindex]");
        const wanted = [...all].filter((element) =>
            element.checkVisibility() && !element.disabled && element.tabIndex >= 0
            && !(element.type === "radio" && !element.checked));
        return wanted.filter((element) => !window.reached.has(element))
            .map((element) => element.id || element.outerHTML);
    }""")
    assert missed == []


def test_everything_drawn_has_an_alternative_text(opened):
    bare = opened.run("""() => [...document.querySelectorAll("canvas, svg, img")]
        .filter((element) => !element.getAttribute("aria-label")
            && !element.closest("button[aria-label]"))
        .map((element) => element.outerHTML)""")
    assert bare == []


def test_keyboard_draws_and_moves_from_cell_to_cell(opened):
    opened.tab.click("#clear")
    opened.tab.focus("#pad")
    opened.tab.keyboard.press(" ")
    for _ in range(12):
        opened.tab.keyboard.press("ArrowDown")
    opened.settle()
    assert opened.run("page.isBlank") is False
    strip = opened.tab.locator(".strip canvas[tabindex]").nth(1)
    strip.focus()
    opened.run("select({index: 1, cell: [0, 3, 25]})")
    opened.tab.keyboard.press("ArrowRight")
    assert opened.run("page.selection") == {"index": 1, "cell": [1, 3, 0]}


@pytest.mark.parametrize("training", [False, True])
def test_arithmetic_of_any_cell_comes_to_its_value(opened, training):
    opened.tab.check(f"[name=mode][value={'training' if training else 'evaluation'}]", force=True)
    worst = opened.run("""() => {
        const random = uniformStream(3);
        let worst = 0;
        page.journey.forEach((stop, index) => {
            for (let trial = 0; trial < 40; trial++) {
                const cell = stop.shown.shape.slice(1).map((size) => Math.floor(random() * size));
                const scale = (tensor) => Math.max(...Array.from(tensor.data, Math.abs)) || 1;
                const value = forwardAccount(stop, cell).result;
                worst = Math.max(worst, Math.abs(value - at(stop.shown, cell)) / scale(stop.shown));
                if (!stop.shownGradient) continue;
                const gradient = backwardAccount(page.journey[index + 1], cell).result;
                const off = Math.abs(gradient - at(stop.shownGradient, cell));
                worst = Math.max(worst, off / scale(stop.shownGradient));
            }
        });
        return worst;
    }""")
    assert worst < 1e-5


def test_training_mode_changes_what_is_read_and_drops_cells(opened):
    before = opened.run("Array.from(page.probabilities)")
    opened.tab.check("[name=mode][value=training]", force=True)
    after = opened.run("Array.from(page.probabilities)")
    assert before != after
    dropped = opened.run("""() => page.journey.filter(({kind}) => kind === "Dropout")
        .map(({details}) => details.mask.data.includes(0))""")
    assert dropped
    assert all(dropped)


def test_a_target_of_ones_own(opened):
    opened.tab.locator("#bars input").nth(5).check()
    assert opened.run("page.aim") == 5
    assert "5" in opened.tab.inner_text("#aim")
    opened.tab.click("#automatic")
    assert opened.run("page.aim") == opened.run("page.label")


def test_a_step_lowers_the_loss_and_can_be_undone(opened):
    opened.tab.click("#learning-tab")
    opened.tab.locator("#picker .wrong").first.click()
    before = opened.run("Array.from(page.probabilities)")
    loss = opened.run("page.journey.at(-1).output.data[0]")
    opened.tab.click("#step")
    opened.settle()
    assert opened.run("page.journey.at(-1).output.data[0]") < loss
    opened.tab.click("#undo-weights")
    opened.settle()
    opened.tab.click("#automatic")
    assert opened.run("Array.from(page.probabilities)") == before


def test_trains_in_the_worker(opened):
    opened.tab.click("#learning-tab")
    opened.tab.click("#fresh")
    opened.tab.click("#start")
    opened.wait("learning.step >= 20")
    opened.tab.click("#start")
    losses = opened.run("learning.lines.batches.map(([, loss]) => loss)")
    assert statistics.mean(losses[-5:]) < 0.8 * losses[0]
    accuracies = opened.run("learning.accuracies.heldOut.map(([step]) => step)")
    assert accuracies[:2] == [0, 10]
    opened.tab.click("#reset")
    opened.settle()
    assert opened.run("page.network === RUN")
    assert opened.run("learning.step") == 0


def test_single_step_is_one_step(opened):
    opened.tab.click("#learning-tab")
    opened.tab.click("#single")
    opened.wait("learning.step === 1")


def test_slider_goes_through_the_epochs(opened):
    opened.tab.click("#epochs-tab")
    last = opened.run("Array.from(page.probabilities)")
    opened.tab.focus("#epoch")
    opened.tab.keyboard.press("Home")
    opened.settle()
    assert "before the first step" in opened.tab.inner_text("#epochs")
    assert opened.run("Array.from(page.probabilities)") != last
    opened.tab.keyboard.press("End")
    opened.settle()
    assert opened.run("Array.from(page.probabilities)") == pytest.approx(last, abs=0.02)


def test_blank_pad_is_no_digit(opened):
    opened.tab.click("#clear")
    opened.settle()
    assert opened.tab.inner_text("#read") == "Nothing drawn yet"
    opened.tab.click("#learning-tab")
    opened.tab.click("#step")
    assert opened.tab.is_visible("#message")


def picture_file(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


BAD_FILES = {
    "not a picture": ("words.txt", b"not a picture", "words.txt"),
    "blank": ("blank.png", picture_file(Image.new("L", (90, 90), 255)), "blank"),
    "huge": ("huge.png", bytes(31_000_000), "30 MB"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_is_told(opened, kind):
    name, raw, words = BAD_FILES[kind]
    opened.tab.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": raw})
    opened.tab.wait_for_selector("#message:not([hidden])")
    assert words in opened.tab.inner_text("#message")
    opened.tab.locator("#picker button").first.click()
    assert not opened.tab.is_visible("#message")


def test_picture_file_is_prepared_as_predict_does(opened, tmp_path):
    picture = Image.new("L", (300, 200), 240)
    picture.paste(20, (130, 30, 160, 170))
    raw = picture_file(picture)
    opened.tab.set_input_files("#file", {"name": "one.png", "mimeType": "image/png", "buffer": raw})
    opened.wait("page.label === null")
    assert np.abs(opened.pixels() - user_pictures.prepare(picture).numpy()).max() <= 1


def test_too_high_a_rate_is_told_and_undone(opened):
    opened.tab.click("#learning-tab")
    opened.tab.focus("#training-rate")
    opened.tab.keyboard.press("End")
    opened.tab.click("#fresh")
    opened.tab.click("#start")
    opened.tab.wait_for_selector("#message-undo:not([hidden])", timeout=120_000)
    assert "rate" in opened.tab.inner_text("#message")
    assert opened.tab.inner_text("#start") == "Train"
    opened.tab.click("#message-undo")
    opened.settle()
    assert opened.run("page.probabilities.every(Number.isFinite)")


def test_without_workers_the_rest_works(browser, address):
    page = Opened(browser, address, script="delete window.Worker")
    page.tab.click("#learning-tab")
    assert page.tab.is_disabled("#start")
    assert "worker" in page.tab.inner_text("#progress")
    page.tab.click("#step")
    page.settle()
    assert page.tab.is_visible("#outcome table")
    assert page.faults == []
    page.context.close()


@pytest.mark.parametrize("width", [400, 1000, 1600])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fits_the_window(browser, address, width, theme):
    page = Opened(browser, address, viewport={"width": width, "height": 850}, color_scheme=theme)
    assert page.run("document.documentElement.scrollWidth") <= width
    page.run("openPanel('arithmetic')")
    assert page.run("element('panel').scrollWidth <= element('panel').clientWidth")
    assert page.faults == []
    page.context.close()


def test_another_network_without_history(browser, tmp_path):
    """Nothing of the architecture is the page's own."""
    run = trained_in(
        tmp_path,
        "trainer=smoke",
        "model.network.norm=group",
        "model.network.order=norm_activation",
        "model.network.activation=gelu",
        "model.network.head=linear",
        "model.network.widths=[8,12,8,4,8]",
    )
    page = Opened(browser, write_page(run).as_uri())
    kinds = page.run("page.journey.map(({kind}) => kind)")
    assert kinds[:5] == ["Input", "Conv2d", "GroupNorm", "GELU", "Dropout"]
    assert kinds[-2:] == ["Conv2d", "CrossEntropyLoss"]
    for index in range(len(kinds)):
        page.run(f"select({{index: {index}, cell: [0, 0, 0]}})")
        assert page.tab.is_visible("#accounts .forward")
    page.tab.click("#epochs-tab")
    assert "every_n_epochs" in page.tab.inner_text("#epochs")
    assert page.faults == []
    page.context.close()
