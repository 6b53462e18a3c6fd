"""The viewer page in a real browser: real files, real drops."""

import base64
import io
import json
import urllib.request

import numpy as np
import pytest
import served_model
from PIL import Image
from scripted_server import Reply, error, outputs_of
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from viewer_page import SIZE, use

from descargan_tf.data.images import write_png
from descargan_tf.prediction.overlay import NEGATIVE_COLOUR, POSITIVE_COLOUR, SCALE, overlay

pytestmark = pytest.mark.usefixtures("shallow", "graphs_as_traced")


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
            error(400, "assertion failed: [image_bytes: too large, at most] [7] [9]\n\t [[{{node map/Assert}}]]"),
            "The server refused the image. It said: “too large, at most 7 9”",
        ),
        (error(400, "assertion failed: "), "The server refused the image. It said: “assertion failed:”"),
        (
            Reply(401, b"<html>"),
            "The server, or a proxy before it, wants to know who asks. Reload this page",
        ),
        (Reply(403, b"<html>"), "The server, or a proxy before it, does not let you ask."),
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
