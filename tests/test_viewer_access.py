"""The viewer page without a mouse, without eyes, on narrow screens."""

import json
import re

import numpy as np
import pytest
from scripted_server import error
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from viewer_page import SIZE


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
