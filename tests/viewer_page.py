"""The viewer page in a real browser, as the suites of it use it."""

import base64
import contextlib
import io
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

SIZE = 16
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # CI is root
    "--disable-gpu",
    "--in-process-gpu",  # two processes less to start
    "--no-zygote",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1000",
)


@contextlib.contextmanager
def browser(profile):
    """A Chromium, until the generator is closed; where there is none the test is skipped, or fails in CI."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        message = "no Chromium here: apt-get install chromium chromium-driver"
        if os.environ.get("REQUIRE_PROGRAMS"):
            pytest.fail(message)
        pytest.skip(message)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield running
    running.quit()


@contextlib.contextmanager
def page(browser, url):
    """The page as opened from a server; what the browser complained of meanwhile fails the test."""
    browser.get_log("browser")
    opened = Page(browser, url)
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
        return WebDriverWait(self.browser, 60, 0.02).until(lambda _: condition())

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
