"""The viewer page in a real browser: real files, real drops, real keys."""

import base64
import io
import json
import os
import re
import shutil
import socket
import threading
import urllib.request

import numpy as np
import pytest
import served_model
from PIL import Image
from scripted_server import Reply, ScriptedServer, error, outputs_of
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from descargan_tf.data.images import write_png
from descargan_tf.prediction.overlay import NEGATIVE_COLOUR, POSITIVE_COLOUR, SCALE, overlay

SIZE = 16
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # CI is root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1000",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        message = "no Chromium here: apt-get install chromium chromium-driver"
        if os.environ.get("REQUIRE_PROGRAMS"):
            pytest.fail(message)
        pytest.skip(message)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield running
    running.quit()


@pytest.fixture
def server():
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def page(browser, server):
    browser.get_log("browser")
    opened = Page(browser, server.url)
    yield opened
    opened.emulate(scheme="light")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    complaints = [entry for entry in browser.get_log("browser") if "Failed to load resource" not in entry["message"]]
    assert [entry["message"] for entry in complaints if "CORS policy" not in entry["message"]] == []


class Page:
    """The viewer as its user meets it."""

    def __init__(self, browser, url):
        self.browser = browser
        self.open(url)

    def open(self, url):
        self.browser.get(url)
        self.wait(lambda: self.text("server-state") not in ("not asked yet", "asking …"))

    def wait(self, condition):
        return WebDriverWait(self.browser, 10, 0.02).until(lambda _: condition())

    def find(self, id_):
        return self.browser.find_element(By.ID, id_)

    def text(self, id_):
        return self.browser.execute_script("return document.getElementById(arguments[0]).textContent", id_).strip()

    def drop(self, *paths):
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.browser.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": 50, "y": 50, "data": data})
        self.wait(lambda: self.list() and not any(re.search("waiting|examined …", words) for words in self.list()))

    def list(self):
        return [button.text for button in self.browser.find_elements(By.CSS_SELECTOR, "#files li button:first-child")]

    def pixels(self, id_):
        """What a canvas shows, [H, W, 3]."""
        url = self.browser.execute_script("return document.getElementById(arguments[0]).toDataURL()", id_)
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA")).astype(int)
        assert (pixels[..., 3] == 255).all()
        return pixels[..., :3]

    def emulate(self, scheme):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def resize(self, width):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def press(self, *keys):
        actions = webdriver.ActionChains(self.browser, 0)
        for key in keys:
            actions.send_keys(key)
        actions.perform()

    def focused(self):
        element = self.browser.switch_to.active_element
        return element.aria_role, element.accessible_name


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(5).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
    write_png(tmp_path / "scan.png", pixels)
    return tmp_path / "scan.png"


def as_arrays(outputs):
    signed, healthy = (np.float32(outputs[name])[..., 0] for name in ("anomaly_map", "healthy_image"))
    return healthy - signed, healthy, signed


# ---- against the embedded server


@pytest.fixture(scope="module")
def model_url():
    with served_model.serve(cors=True) as url:
        yield url


@pytest.fixture
def radiograph(tmp_path):
    """A file that is not of the model's size."""
    y, x = np.mgrid[:96, :80]
    write_png(tmp_path / "radiograph.png", (128 + 120 * np.sin(np.hypot(y - 40, x - 20) / 6)).astype(np.uint8))
    return tmp_path / "radiograph.png"


def rest_answer(url, path):
    """What the server says to a program, for the same file."""
    instance = {"image_bytes": {"b64": base64.b64encode(path.read_bytes()).decode()}}
    body = json.dumps({"signature_name": "serving_bytes", "instances": [instance]}).encode()
    with urllib.request.urlopen(f"{url}/v1/models/descargan:predict", body) as response:
        return json.load(response)["predictions"][0]


def check_numbers(page, outputs):
    for id_, name in (("probability", "disease_probability"), ("score", "anomaly_score")):
        assert float(page.find(id_).get_attribute("value")) == outputs[name]
        assert page.text(id_) == f"{outputs[name]:.4f}"


def test_a_dropped_file_shows_what_the_rest_answer_says(page, model_url, radiograph):
    page.open(model_url)
    assert page.text("server-state") == "descargan version 1, ready"
    page.drop(radiograph)
    outputs = rest_answer(model_url, radiograph)
    check_numbers(page, outputs)
    check_pictures(page, outputs)
    for what, name in (("map", "anomaly_map_png_bytes"), ("overlay", "overlay_png_bytes")):
        png = base64.b64decode(outputs[name]["b64"])
        assert np.abs(page.pixels(what) - np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int)).max() <= 1


def test_a_page_from_elsewhere_may_ask_it_with_cors(page, model_url, radiograph, server):
    use(page, model_url)
    page.drop(radiograph)
    check_numbers(page, rest_answer(model_url, radiograph))
    assert server.requests == []


def test_what_it_refuses_is_said_in_words(page, model_url, tmp_path):
    Image.new("RGB", (64, 64), (200, 0, 0)).save(tmp_path / "red.png")
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000)).astype(np.uint8)
    write_png(tmp_path / "large.png", noise)
    (tmp_path / "cut.png").write_bytes((tmp_path / "large.png").read_bytes()[:500])
    page.open(model_url)
    page.drop(tmp_path / "red.png")
    assert page.text("error").startswith("red.png: The server refused the image. It said: “")
    assert "is a colour image" in page.text("error")
    page.drop(tmp_path / "cut.png")
    assert page.text("error").startswith("cut.png: The server refused the image. It said: “")
    page.drop(tmp_path / "large.png")
    assert page.text("error").startswith("large.png: The image is larger than the server accepts. Send a smaller file.")


# ---- what is shown


def check_pictures(page, outputs):
    """The four canvases against numpy and the figures of the reports."""
    image, healthy, signed = as_arrays(outputs)
    gray = [np.clip((values + 1) * 127.5, 0, 255)[..., None].repeat(3, -1) for values in (image, healthy)]
    assert np.abs(page.pixels("input") - gray[0]).max() <= 0.6  # rounding, here and there
    assert np.abs(page.pixels("healthy") - gray[1]).max() <= 0.6
    assert np.abs(page.pixels("map") - overlay(np.ones_like(image), signed)).max() <= 1
    assert np.abs(page.pixels("overlay") - overlay(image, signed)).max() <= 1


def test_the_four_pictures_are_the_servers_floats(page, image):
    page.drop(image)
    check_pictures(page, outputs_of(image.read_bytes()))


def test_the_opacity_slider_lays_the_map_on_and_off_by_keyboard(page, image):
    page.drop(image)
    slider = page.find("opacity")
    slider.send_keys(Keys.HOME)
    assert (page.text("opacity-value"), slider.get_attribute("aria-valuetext")) == ("0 %", "0 percent")
    np.testing.assert_array_equal(page.pixels("overlay"), page.pixels("input"))
    slider.send_keys(*[Keys.ARROW_RIGHT] * 10)
    assert page.text("opacity-value") == "50 %"
    full = overlay(*as_arrays(outputs_of(image.read_bytes()))[::2])
    assert np.abs(page.pixels("overlay") - (page.pixels("input") + full) / 2).max() <= 1


def test_the_legend_has_the_scale_and_colours_of_the_reports(page, image):
    page.drop(image)
    gradient = page.find("colours").value_of_css_property("background-image")
    ends = [f"rgb({', '.join(map(str, colour))})" for colour in (NEGATIVE_COLOUR, POSITIVE_COLOUR)]
    assert gradient == f"linear-gradient(to right, {ends[0]}, rgb(255, 255, 255), {ends[1]})"
    assert (page.text("lowest"), page.text("highest")) == (f"−{SCALE:g}", f"+{SCALE:g}")


@pytest.mark.parametrize(("value", "name"), [(0, "healthy"), (255, "diseased")])
def test_probability_and_score_stand_in_words_and_numbers(page, tmp_path, value, name):
    write_png(tmp_path / "flat.png", np.full((SIZE, SIZE), value, np.uint8))
    page.drop(tmp_path / "flat.png")
    assert page.text("probability") == f"{value / 255:.4f}"
    assert page.text("probability-words") == f"{100 * value / 255:.1f} %: the model calls this image {name}."
    assert page.text("score") == "0.5000"
    assert page.text("score-words") == "How much would have to change; larger is more diseased."
    assert page.text("status") == (f"flat.png: {name}, disease probability {value / 255:.4f}, anomaly score 0.5000.")


def test_the_map_is_also_told_in_words(page, tmp_path):
    pixels = np.full((SIZE, SIZE), 128, np.uint8)
    pixels[1, 14], pixels[8, 7] = 255, 0  # the rule of the server: twice as dark, and half as dark, in the twin
    write_png(tmp_path / "a.png", pixels)
    page.drop(tmp_path / "a.png")
    words = "The twin is at most 0.50 brighter (middle centre) and 0.50 darker (top right) than the input."
    assert page.text("map-words") == words
    assert page.find("map").accessible_name == f"Signed map of a.png: {words}"


def test_an_image_that_stays_as_it_is_is_said_to(page, image, server):
    outputs = outputs_of(image.read_bytes())
    zero = np.zeros((SIZE, SIZE, 1)).tolist()
    server.script.append(Reply(200, {"predictions": [{**outputs, "anomaly_map": zero}]}))
    page.drop(image)
    assert page.text("map-words") == "The twin is the input, unchanged."


@pytest.mark.parametrize("what", ["map", "overlay"])
def test_pictures_can_be_saved(page, image, tmp_path, what):
    folder = tmp_path / "saved"
    page.browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder), "eventsEnabled": False}
    )
    page.drop(image)
    page.find(f"save-{what}").click()
    saved = folder / f"scan_{what}.png"
    page.wait(saved.exists)
    name = {"map": "anomaly_map_png_bytes", "overlay": "overlay_png_bytes"}[what]
    assert saved.read_bytes() == base64.b64decode(outputs_of(image.read_bytes())[name]["b64"])


def test_it_says_that_it_is_no_medical_device(page):
    assert "not a medical device" in page.browser.find_element(By.TAG_NAME, "footer").text


def test_a_method_without_probability_shows_its_maps_and_score(page, image, server):
    outputs = outputs_of(image.read_bytes())
    kept = {name: value for name, value in outputs.items() if name not in ("disease_probability", "predicted_class")}
    server.script.append(Reply(200, {"predictions": [kept]}))
    page.drop(image)
    check_pictures(page, outputs)
    assert not page.find("probability-part").is_displayed()
    assert page.text("status") == f"scan.png: anomaly score {outputs['anomaly_score']:.4f}."


def test_a_method_without_maps_shows_the_file_and_its_probability(page, image, server):
    server.script.append(Reply(200, {"predictions": [{"disease_probability": 0.25, "predicted_class": 0}]}))
    page.drop(image)
    np.testing.assert_array_equal(page.pixels("input")[..., 0], np.asarray(Image.open(image)))
    shown = [figure.text for figure in page.browser.find_elements(By.TAG_NAME, "figure") if figure.is_displayed()]
    assert shown == ["Input\nas the file has it"]
    assert [page.find(id_).is_displayed() for id_ in ("score-part", "scale", "save-map", "save-overlay")] == [False] * 4
    assert page.text("probability") == "0.2500"


def test_a_map_without_a_twin_lies_over_the_file(page, image, server):
    saliency = np.zeros((SIZE, SIZE, 1), np.float32)
    saliency[14, 1] = 0.5
    reply = {"anomaly_map": saliency.tolist(), "disease_probability": 0.5, "predicted_class": 0}
    server.script.append(Reply(200, {"predictions": [reply]}))
    page.drop(image)
    assert not page.find("healthy").is_displayed()
    assert page.text("map-words") == "Where the model sees disease: at most 0.50 (bottom left)."
    gray = np.asarray(Image.open(image)) / 127.5 - 1
    assert np.abs(page.pixels("overlay") - overlay(gray, saliency[..., 0])).max() <= 1


# ---- several files


def test_files_are_examined_one_after_the_other_and_chosen_from_a_list(page, tmp_path, server):
    for i in range(3):
        write_png(tmp_path / f"{i}.png", np.full((SIZE, SIZE), 100 * i, np.uint8))
    page.drop(*(tmp_path / f"{i}.png" for i in range(3)))
    shown = [
        f"{i}.png: {name}, disease probability {100 * i / 255:.4f}"
        for i, name in enumerate(("healthy", "healthy", "diseased"))
    ]
    assert page.list() == shown
    assert page.text("result-title") == "0.png"
    buttons = page.browser.find_elements(By.CSS_SELECTOR, "#files button")
    buttons[2].send_keys(Keys.ENTER)
    assert page.text("result-title") == "2.png"
    assert [button.get_attribute("aria-pressed") for button in buttons] == ["false", "false", "true"]
    assert page.text("probability") == f"{200 / 255:.4f}"
    assert len(server.requests) == 3


def test_a_failed_file_does_not_stop_the_others_and_can_be_tried_again(page, image, server):
    server.script.append(error(503, "queue full"))
    page.drop(image, image)
    assert page.list()[0] == "scan.png: failed"
    assert page.list()[1].startswith("scan (1).png: diseased, disease probability 0.")
    assert page.find("error").text.startswith("scan.png: The server is overloaded")
    again = page.browser.find_element(By.CSS_SELECTOR, "#files li button:nth-child(2)")
    assert again.accessible_name == "Try scan.png again"
    again.send_keys(Keys.ENTER)
    assert page.focused()[1].startswith("scan.png: ")  # the button itself is gone
    page.wait(lambda: "failed" not in page.list()[0] and "examined" not in page.list()[0])
    assert page.find("result").is_displayed()
    assert page.text("error") == ""
    assert len(server.requests) == 3


def test_names_and_messages_are_never_taken_for_markup(page, tmp_path, server):
    name = "<img src=x onerror=alert(1)>.png"
    write_png(tmp_path / name, np.zeros((SIZE, SIZE), np.uint8))
    server.script.append(error(400, "<b>bold</b>"))
    page.drop(tmp_path / name)
    assert page.text("error") == f"{name}: The server refused the image. It said: “<b>bold</b>”"
    assert page.browser.find_elements(By.CSS_SELECTOR, "#error b, #files img") == []


# ---- errors in words


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (error(400, "Unknown image file format"), "The server refused the image. It said: “Unknown image file format”"),
        (
            error(404, "Servable not found"),
            "The server has no such model. Check the model name. It said: “Servable not",
        ),
        (error(413, "body too large"), "The image is larger than the server accepts. Send a smaller file."),
        (error(429, "slow down"), "The server is busy. Try again in a moment. It said: “slow down”"),
        (
            error(503, "no", **{"Retry-After": "9"}),
            "The server is overloaded or still loading its model. Try again in 9",
        ),
        (error(504, "deadline"), "The server took too long and gave up. Try again, or send a smaller image."),
        (Reply(502, b"<html>bad gateway</html>"), "The server answered with an error (502)."),
        (Reply(200, b"<html>hello</html>"), "Something answered at http://127.0.0.1:"),
        (Reply(200, {"outputs": 1}), "The server's answer holds neither a map nor a probability. Was this model expor"),
    ],
)
def test_refusals_are_said_in_words(page, image, server, reply, words):
    server.script.append(reply)
    page.drop(image)
    assert page.text("error").startswith(f"scan.png: {words}")
    assert not page.find("result").is_displayed()


def test_values_that_are_no_numbers_are_not_drawn(page, image, server):
    outputs = outputs_of(image.read_bytes())
    outputs["healthy_image"][3][4] = [float("nan")]
    server.script.append(Reply(200, {"predictions": [outputs]}))  # json writes it bare, as TensorFlow Serving does
    page.drop(image)
    assert page.text("error").startswith("scan.png: The model answered with values that are not numbers (NaN")


def test_what_is_no_image_is_not_sent(page, tmp_path, server):
    (tmp_path / "notes.png").write_text("no picture")
    page.drop(tmp_path / "notes.png")
    assert page.text("error") == "notes.png: This is not a PNG or JPEG image."
    assert server.requests == []


def test_a_file_that_is_too_large_is_not_sent(page, tmp_path, server):
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(65 * 2**20)
    page.drop(tmp_path / "huge.png")
    assert page.text("error") == "huge.png: The file is too large: 65 MB, and this page sends at most 64 MB."
    assert server.requests == []


def test_dropping_words_instead_of_files_says_what_to_drop(page):
    data = {"items": [{"mimeType": "text/plain", "data": "hello"}], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.browser.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": 50, "y": 50, "data": data})
    page.wait(lambda: page.text("error"))
    assert page.text("error") == "No file was dropped. Drop PNG or JPEG files, or choose them with the button."


# ---- other servers


def use(page, url, model="descargan"):
    if not page.find("url").is_displayed():
        page.browser.find_element(By.TAG_NAME, "summary").click()
    page.browser.execute_script(
        "const find = (id) => document.getElementById(id); [find('url').value, find('model').value] = arguments;"
        "find('server-state').textContent = 'asking …'",
        url,
        model,
    )
    page.find("model").send_keys(Keys.ENTER)
    page.wait(lambda: page.text("server-state") != "asking …")


def test_the_pages_own_server_is_used_unless_another_is_named(page, server):
    assert page.find("url").get_attribute("value") == server.url
    assert page.text("server-state") == "descargan version 7, ready"


def test_another_server_with_cors_is_used(page, image, server):
    with ScriptedServer(cors=True) as other:
        use(page, other.url + "/")
        assert page.text("status") == "Connected: descargan version 7, ready."
        page.drop(image)
        assert page.text("probability") == f"{outputs_of(image.read_bytes())['disease_probability']:.4f}"
        assert (len(server.requests), len(other.requests)) == (0, 1)


def test_a_server_without_cors_is_told_from_an_absent_one(page):
    with ScriptedServer() as other:
        use(page, other.url)
        assert page.text("error") == (
            f"The server at {other.url} is there, but does not let this page read its answers (CORS). "
            "Start it with --rest_api_enable_cors_support, or open the page from that server."
        )
    use(page, other.url)
    assert page.text("error") == (
        f"The server at {other.url} cannot be reached. Check that it is running and that the server URL is right."
    )
    assert page.text("server-state") == "not ready"


def test_a_server_that_dies_is_noticed(page, image, server):
    hung_up = Reply(200, b"", before=lambda handler: handler.connection.shutdown(socket.SHUT_RDWR))
    server.script += [hung_up] * 3  # the browser itself tries again when a connection that it kept is gone
    page.drop(image)
    assert page.text("error").startswith(f"scan.png: The server at {server.url} cannot be reached.")


def test_a_silent_server_is_given_up(page, image, server):
    release = threading.Event()
    server.script.append(Reply(200, {}, before=lambda _: release.wait(10)))
    page.browser.execute_script("AbortSignal.timeout = () => AbortSignal.abort(new DOMException('', 'TimeoutError'))")
    page.drop(image)
    release.set()
    assert "did not answer within 120 seconds. It may be overloaded; try again later." in page.text("error")


@pytest.mark.parametrize(
    ("url", "model", "words"),
    [
        ("localhost", "m", "“localhost” is not a URL. Write it like http://127.0.0.1:8501."),
        ("ftp://host", "m", "The server URL must begin with http:// or https://, not ftp:"),
        ("http://host", " ", "The model name is empty. It is the name that the server was started with."),
    ],
)
def test_impossible_settings_are_named(page, url, model, words):
    use(page, url, model)
    assert page.text("error") == words


def test_an_unknown_model_is_named_by_the_server(page, server):
    use(page, server.url, "other")
    assert page.text("error").startswith("The server has no such model. Check the model name. It said: “Could not find")


def test_a_model_that_is_still_loading_is_said_to(page, server):
    server.state = "LOADING"
    use(page, server.url)
    assert page.text("error").startswith("The server knows the model, but has not loaded it yet.")


def test_the_address_names_the_model_but_never_the_server(page, server):
    page.open(f"{server.url}/?model=chest&url=http://127.0.0.1:1")
    assert page.find("model").get_attribute("value") == "chest"
    assert page.find("url").get_attribute("value") == server.url


def test_nothing_is_loaded_from_anywhere(page, image, server):
    page.browser.get_log("performance")
    page.open(server.url)
    page.drop(image)
    events = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    urls = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    urls = {url for url in urls if not url.startswith("data:")}
    assert urls == {f"{server.url}/", f"{server.url}/v1/models/descargan", f"{server.url}/v1/models/descargan:predict"}


# ---- without a mouse, without eyes


def choose_with_enter(page, path):
    browser = page.browser
    browser.execute_cdp_cmd("Page.setInterceptFileChooserDialog", {"enabled": True})
    browser.get_log("performance")
    page.press(Keys.ENTER)
    opened = page.wait(
        lambda: [e for e in browser.get_log("performance") if "Page.fileChooserOpened" in e["message"]],
    )
    node = json.loads(opened[0]["message"])["message"]["params"]["backendNodeId"]
    browser.execute_cdp_cmd("DOM.setFileInputFiles", {"files": [str(path)], "backendNodeId": node})
    browser.execute_cdp_cmd("Page.setInterceptFileChooserDialog", {"enabled": False})


def test_the_same_file_can_be_chosen_twice(page, image):
    page.find("choose").send_keys()  # focus
    for count in (1, 2):
        choose_with_enter(page, image)
        page.wait(lambda count=count: len(page.list()) == count)


def test_the_keyboard_alone_is_enough(page, image):
    page.press(Keys.TAB)
    assert page.focused() == ("button", "Choose images")
    choose_with_enter(page, image)
    page.wait(lambda: page.find("result").is_displayed())
    stops = []
    for _ in range(5):
        page.press(Keys.TAB)
        stops.append(page.focused())
    assert stops == [
        ("button", page.list()[0]),
        ("slider", "Opacity"),
        ("link", "Save the map as PNG"),
        ("link", "Save the overlay as PNG"),
        ("DisclosureTriangle", "Model server: descargan version 7, ready"),
    ]
    page.press(Keys.ENTER, Keys.TAB)
    assert page.focused() == ("textbox", "Server URL")
    page.press(Keys.TAB)
    assert page.focused() == ("textbox", "Model name")
    page.press(Keys.TAB)
    assert page.focused() == ("button", "Check the connection")
    page.press(Keys.ENTER)
    page.wait(lambda: page.text("status") == "Connected: descargan version 7, ready.")


def test_focus_is_seen(page):
    page.press(Keys.TAB)
    button = page.browser.switch_to.active_element
    assert button.value_of_css_property("outline-style") == "solid"
    assert float(button.value_of_css_property("outline-width").removesuffix("px")) >= 2


def test_everything_that_can_be_used_or_seen_has_a_name(page, image, server):
    server.script.append(error(503, "busy"))
    page.drop(image, image)
    page.browser.find_elements(By.CSS_SELECTOR, "#files li")[1].find_element(By.TAG_NAME, "button").click()
    page.browser.find_element(By.TAG_NAME, "summary").click()
    elements = page.browser.find_elements(By.CSS_SELECTOR, "button, a, input, canvas, summary, section, [role=img]")
    named = {(e.aria_role, e.accessible_name) for e in elements if e.is_displayed()}
    assert all(name for _, name in named), named
    assert {
        ("region", "Images to examine"),
        ("region", "Images"),
        ("region", "scan (1).png"),
        ("button", "Choose images"),
        ("button", "Try scan.png again"),
        ("image", f"Input image scan (1).png, {SIZE} by {SIZE} pixels"),
        ("image", f"Healthy twin of scan (1).png, {SIZE} by {SIZE} pixels"),
        ("image", "Input image scan (1).png with the map in colour over it"),
        ("slider", "Opacity"),
        ("textbox", "Server URL"),
    } <= named
    assert page.find("status").aria_role == "status"
    assert page.find("error").get_attribute("role") == "alert"
    assert page.browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"


# [what the text says, its colour, that of what is behind it], for every visible piece of text
COLOURS = """
return [...document.querySelectorAll('body *')]
  .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  .map((e) => {
    let behind = e;
    while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
    return [e.textContent.trim(), getComputedStyle(e).color, getComputedStyle(behind).backgroundColor];
  });
"""


def luminance(colour):
    """WCAG 2.2, relative luminance."""
    values = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
    values = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(values @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_colour_schemes(page, tmp_path, image, scheme):
    (tmp_path / "notes.txt").touch()
    page.emulate(scheme)
    page.drop(image, tmp_path / "notes.txt")
    page.browser.find_element(By.TAG_NAME, "summary").click()
    texts = page.browser.execute_script(COLOURS)
    assert len(texts) > 25
    assert {luminance(behind) < 0.2 for text, _, behind in texts if text == "DeScarGAN viewer"} == {scheme == "dark"}
    for text, colour, behind in texts:
        darker, lighter = sorted((luminance(colour), luminance(behind)))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, colour, behind)


@pytest.mark.parametrize("width", [320, 600])  # a telephone, and a 1200 pixel window at 200 %
def test_narrow_screens_need_no_sideways_scrolling(page, image, width):
    page.resize(width)
    page.drop(image.rename(image.with_name("a" * 80 + ".png")))
    page.browser.find_element(By.TAG_NAME, "summary").click()
    inside, visible = page.browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert inside <= visible == width
    boxes = page.browser.execute_script(
        "return [...document.querySelectorAll('main *')].filter((e) => e.checkVisibility())"
        ".map((e) => [e.id || e.tagName, e.getBoundingClientRect().right])"
    )
    assert [box for box in boxes if box[1] > width] == []
