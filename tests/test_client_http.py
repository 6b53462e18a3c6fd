"""The client in other people's networks: proxies, headers, credentials."""

import base64
import socket

import pytest
from scripted_server import Reply, ScriptedServer, error, outputs_of
from test_client import picture, png, run

from descargan_tf.data.images import write_png
from descargan_tf.errors import UserError
from descargan_tf.export import connection
from descargan_tf.export.client import Client, RequestError, main

MODEL = "http://model.example:8501"  # which exists nowhere but behind the proxy of a test
SECRET = "s3cret"
VARIABLES = [f"{kind}_proxy" for kind in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Without the proxies of whoever runs the tests."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.fixture
def proxy():
    """A proxy, and the model server behind it, in one."""
    with ScriptedServer(prefix=MODEL) as running:
        yield running


@pytest.fixture
def scan(tmp_path):
    write_png(tmp_path / "scan.png", picture(0))
    return tmp_path / "scan.png"


def basic(pair):
    return "Basic " + base64.b64encode(pair.encode()).decode()


def quick(url, **settings):
    return Client(url, retries=0, timeout_seconds=5, **settings)


def refusal(url, **settings):
    with quick(url, **settings) as client, pytest.raises(RequestError) as caught:
        client.predict(png())
    return str(caught.value)


# ---- proxies


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_the_environments_proxy_is_used_and_named(environment, proxy, scan, tmp_path, capsys, variable):
    environment.setenv(variable, proxy.url)
    assert run(MODEL, scan, f"--output_dir={tmp_path / 'out'}") == 0
    assert len(proxy.requests) == 1
    assert proxy.headers[0]["Host"] == "model.example:8501"
    assert capsys.readouterr().err == f"asking {MODEL} through the proxy {proxy.url} ({variable})\n"


def test_small_letters_go_first_and_a_scheme_may_be_left_out(environment, proxy):
    environment.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    environment.setenv("http_proxy", proxy.url.removeprefix("http://"))
    with quick(MODEL) as client:
        assert client.predict(png()).disease_probability == outputs_of(png())["disease_probability"]


@pytest.mark.parametrize(
    ("host", "exceptions", "is_excepted"),
    [
        ("127.0.0.1", "", False),  # as with curl and requests
        ("127.0.0.1", "localhost,127.0.0.1", True),
        ("127.0.0.1", "localhost, 127.0.0.0/8", True),
        ("127.0.0.1", "10.0.0.0/8", False),
        ("127.0.0.1", "127.0.0.1:{port}", True),
        ("127.0.0.1", "127.0.0.1:1", False),
        ("localhost", "127.0.0.1", False),
        ("localhost", "LOCALHOST", True),
        ("a.b.example", ".example", True),
        ("a.b.example", "b.example", True),
        ("ab.example", "b.example", False),
        ("a.b.example", "*", True),
        ("[::1]", "::1", True),
        ("[::1]", "[::1]", True),
        ("[::1]", "fe80::/10", False),
    ],
)
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_exceptions(environment, host, exceptions, is_excepted, variable):
    environment.setenv("HTTP_PROXY", "http://proxy.example:3128")
    environment.setenv(variable, exceptions.format(port=8501))
    with quick(f"http://{host}:8501") as client:
        assert (client.proxy is None) == is_excepted


def test_an_excepted_server_is_asked_itself(environment, server, proxy):
    environment.setenv("HTTP_PROXY", proxy.url)
    environment.setenv("NO_PROXY", "127.0.0.1")
    with quick(server.url) as client:
        client.predict(png())
    assert (len(server.requests), len(proxy.requests)) == (1, 0)


def test_https_goes_through_a_tunnel_and_by_its_own_variable(environment):
    environment.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    asked = []
    with ScriptedServer() as proxy:
        proxy.tunnel = lambda handler: asked.append((handler.path, handler.headers["Proxy-Authorization"])) or 403
        environment.setenv("HTTPS_PROXY", proxy.url.replace("//", f"//me:{SECRET}%40@"))
        said = refusal("https://model.example")
    assert asked == [("model.example:443", basic(f"me:{SECRET}@"))]
    assert said == (
        f"the proxy {proxy.url} (HTTPS_PROXY) does not lead to https://model.example: 403 Forbidden; is it the right "
        "one? NO_PROXY=model.example goes around it"
    )


def test_credentials_of_the_proxy_go_to_the_proxy_alone(environment, proxy):
    environment.setenv("HTTP_PROXY", proxy.url.replace("//", f"//me:{SECRET}@"))
    with quick(MODEL) as client:
        client.predict(png())
        assert str(client.proxy) == f"{proxy.url} (HTTP_PROXY)"
    assert proxy.headers[0]["Proxy-Authorization"] == basic(f"me:{SECRET}")
    assert proxy.headers[0]["Authorization"] is None


def test_a_proxy_that_is_not_there_is_named(environment):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment.setenv("HTTP_PROXY", url)
    said = refusal(MODEL)
    assert said.startswith(f"the proxy {url} (HTTP_PROXY) does not lead to {MODEL}: ")
    assert "Connection refused" in said
    assert said.endswith("NO_PROXY=model.example goes around it")


def test_a_proxy_that_wants_a_password_says_how(environment, proxy):
    environment.setenv("HTTP_PROXY", proxy.url)
    proxy.script += [Reply(407, b"<html>")] * 2
    expected = "expected HTTP_PROXY=http://user:password@host:port"
    assert refusal(MODEL) == f"the proxy {proxy.url} (HTTP_PROXY) wants user and password (407); {expected}"
    environment.setenv("HTTP_PROXY", proxy.url.replace("//", f"//me:{SECRET}@"))
    said = refusal(MODEL)
    assert said == (
        f"the proxy {proxy.url} (HTTP_PROXY) does not take the user and password that were given (407); {expected}"
    )


def test_an_answer_that_may_be_the_proxys_says_so(environment, proxy):
    environment.setenv("HTTP_PROXY", proxy.url)
    proxy.script += [Reply(502, b"<html>no such host</html>"), error(500, "so it is")]
    assert refusal(MODEL) == (
        f"the server, or the proxy {proxy.url} (HTTP_PROXY) before it, answered 502: Bad Gateway; "
        "NO_PROXY=model.example goes around the proxy"
    )
    assert refusal(MODEL) == "the server answered 500: so it is"


@pytest.mark.parametrize(
    "value",
    [
        f"socks5://me:{SECRET}@proxy:1080",
        f"http://me:{SECRET}@",
        "http://proxy:port",
        f"http://me:{SECRET}@proxy:99999",
        f"http://me/{SECRET}@proxy",
    ],
)
def test_what_is_no_http_proxy_is_refused(environment, value):
    environment.setenv("ALL_PROXY", value)
    with pytest.raises(UserError) as caught:
        Client(MODEL)
    assert str(caught.value).startswith(
        f"ALL_PROXY={connection.without_secrets(value)} is no HTTP proxy; expected http:"
    )
    assert SECRET not in str(caught.value)


def test_https_where_there_is_none_is_no_riddle(server):
    said = refusal(server.url.replace("http:", "https:"))
    assert said.startswith(f"https{server.url.removeprefix('http')} is not trusted: [SSL: ")
    assert said.endswith("is it https there? SSL_CERT_FILE names the file of an authority of your own")


# ---- headers


def test_headers_go_with_every_request(server, scan, tmp_path):
    asked = []
    server.admit = lambda handler: asked.append(handler.headers) or 200
    arguments = ["--header", f"Authorization: Bearer {SECRET}", "-H", "X-Two:1", "--header=X-Two: 2", "-H", "X-Ü: a"]
    with pytest.raises(SystemExit):
        run(server.url, scan, "--header", "no colon")
    assert run(server.url, scan, f"--output_dir={tmp_path / 'out'}", *arguments) == 2
    assert asked == []
    assert run(server.url, scan, f"--output_dir={tmp_path / 'out'}", *arguments[:-2], "-H", "X-Name: Łódź") == 0
    assert len(asked) == 2  # for the state, and for the image
    for headers in asked:
        assert headers["Authorization"] == f"Bearer {SECRET}"
        assert headers.get_all("X-Two") == ["1", "2"]
        assert headers["X-Name"].encode("latin-1").decode() == "Łódź"
    assert asked[1]["Content-Type"] == "application/json"


def test_headers_of_a_program(server):
    with quick(server.url, headers={"Authorization": f"Bearer {SECRET}\n", "content-type": "application/x"}) as client:
        client.predict(png())
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    assert server.headers[0].get_all("Content-Type") == ["application/x"]


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"A b": SECRET}, "'A b' is no header's name; expected letters, digits and hyphens"),
        ({"": SECRET}, "'' is no header's name"),
        ({"X": f"{SECRET}\r\nEvil: 1"}, "the header X holds a line break or another control character"),
        ({"content-length": "1"}, "the header content-length is the client's own"),
        ({"Content-Encoding": "gzip"}, "the header Content-Encoding is the client's own"),
    ],
)
def test_headers_that_cannot_be_sent(headers, message):
    with pytest.raises(UserError) as caught:
        Client(MODEL, headers=headers)
    assert str(caught.value).startswith(message)
    assert SECRET not in str(caught.value)


def test_a_header_without_a_colon_is_not_repeated(capsys):
    with pytest.raises(SystemExit) as caught:
        main([f"--url={MODEL}", "a.png", "--header", f"Bearer {SECRET}"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert 'a header without a colon; expected "Name: value", such as "Authorization: Bearer <token>"' in said
    assert SECRET not in said


# ---- credentials


@pytest.mark.parametrize(
    ("before", "pair"),
    [
        (f"me:{SECRET}", f"me:{SECRET}"),
        ("m%40e:%2F%3a%C3%BC", "m@e:/:ü"),
        ("token", "token:"),
        (":pw", ":pw"),
    ],
)
def test_user_and_password_of_the_url_are_sent(server, before, pair):
    with quick(server.url.replace("//", f"//{before}@")) as client:
        client.predict(png())
        assert client.url == server.url
    assert server.headers[0]["Authorization"] == basic(pair)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (503, "the server answered 503: Service Unavailable"),
        (401, "the server answered 401: Unauthorized; it does not take the credentials given"),
        (404, "the server answered 404"),
    ],
)
def test_they_are_never_printed(server, scan, capsys, caplog, status, words):
    caplog.set_level("DEBUG")
    url = server.url.replace("//", f"//me:{SECRET}@")
    server.status = lambda _: Reply(status, b"")
    assert run(url, scan, "--retries=0") == 2
    server.status = lambda _: Reply(200, {"model_version_status": [{"version": "7", "state": "LOADING"}]})
    assert run(url, scan) == 2
    with socket.create_server(("127.0.0.1", 0)) as free:
        absent = f"http://me:{SECRET}@127.0.0.1:{free.getsockname()[1]}"
    assert run(absent, scan, "--retries=0") == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert f"no version of descargan is available at {server.url}: " in printed.err
    assert SECRET not in printed.out + printed.err + caplog.text
    assert basic(f"me:{SECRET}") not in printed.out + printed.err + caplog.text


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"http://me:{SECRET}@", "http:// is no server URL; expected scheme, host and port"),
        (f"me:{SECRET}@host:8501", "host:8501 is no server URL"),
        (f"ftp://me:{SECRET}@host", "ftp://host is no server URL"),
        (f"http://me:{SECRET}/x@host:1", "http://host:1"),
        (f"http://me:a{SECRET}#x@host", "http://host"),
        (f"http://me:{SECRET}?@host", "http://host"),
        (f"http://me:[{SECRET}@host", "http://host is no server URL: its host or port cannot be told"),
        (f"http://me:{SECRET}@host:99999", "http://host:99999 is no server URL: its host or port cannot be told"),
        ("http://host:port", "http://host:port is no server URL: its host or port cannot be told"),
        ("http://[::1:8501", "http://[::1:8501 is no server URL"),
        (
            f"https://me:{SECRET}@host/a/v1/models/descargan",
            "https://host/a/v1/models/descargan is more than a server URL: give https://host/a, and the model's name",
        ),
        ("http://host/v1/", "http://host/v1/ is more than a server URL: give http://host, and"),
        ("http://host/v1/models/m:predict", "http://host/v1/models/m:predict is more than a server URL"),
    ],
)
def test_a_url_that_cannot_be_is_shown_without_them(url, message, capsys):
    assert main([f"--url={url}", __file__]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1
    assert SECRET not in said


def test_two_kinds_of_credentials_are_one_too_many():
    with pytest.raises(
        UserError, match="user and password in the URL and an Authorization header were both given; keep"
    ):
        Client("http://me:pw@host", headers={"authorization": "Bearer x"})
