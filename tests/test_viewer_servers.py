"""The viewer page and the servers that it asks: its own, others, absent, silent, wrongly named."""

import json
import socket
import threading

import pytest
from scripted_server import Reply, ScriptedServer, outputs_of
from viewer_page import use


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


@pytest.mark.parametrize(
    ("prefix", "address"),
    [
        ("/descargan", "/descargan/"),
        ("/descargan", "/descargan"),
        ("/descargan", "/descargan/?model=descargan"),
        ("/user/me/proxy/8501", "/user/me/proxy/8501//"),
        ("/apps", "/apps/viewer.html"),
        ("", "/viewer.html"),
        ("/a%20b", "/a%20b/"),
    ],
)
def test_the_model_is_asked_for_where_the_page_lies(page, image, prefix, address):
    """A proxy that shows the server under a path of its own."""
    with ScriptedServer(prefix=prefix) as behind:
        page.open(behind.url + address)
        assert page.find("url").get_attribute("value") == behind.url + prefix
        assert page.text("server-state") == "descargan version 7, ready"
        page.drop(image)
        assert page.text("probability") == f"{outputs_of(image.read_bytes())['disease_probability']:.4f}"


def test_who_has_logged_in_at_a_proxy_stays_so(page, image, server):
    """The page's own server gets the browser's cookies; another does not."""
    with ScriptedServer(cookie="session=mine", prefix="/descargan") as behind:
        page.open(behind.url + "/descargan/")
        page.drop(image)
        assert page.text("probability") == f"{outputs_of(image.read_bytes())['disease_probability']:.4f}"
        assert behind.headers[0]["Cookie"] == "session=mine"
        server.cors = True
        use(page, server.url)
        page.drop(image)
        assert len(server.headers) == 1
        assert server.headers[0]["Cookie"] is None
        page.open(behind.url + "/descargan/")
        page.browser.delete_all_cookies()
        page.drop(image)
        assert page.text("error") == (
            "scan.png: The server, or a proxy before it, wants to know who asks. Reload this page and log in."
        )


def test_nothing_is_loaded_from_anywhere(page, image, server):
    page.browser.get_log("performance")
    page.open(server.url)
    page.drop(image)
    events = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    urls = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    urls = {url for url in urls if not url.startswith("data:")}
    assert urls == {f"{server.url}/", f"{server.url}/v1/models/descargan", f"{server.url}/v1/models/descargan:predict"}
