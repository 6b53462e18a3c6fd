"""Refusals, and answers that are none, in the program's words: which image, what was expected, what to do."""

import io
import json
import socket

import exports
import numpy as np
import pytest
from PIL import Image
from scripted_server import Reply, error, outputs_of
from test_client import picture, png, run
from test_client_http import SECRET, refusal

from descargan_tf.data.images import Scaling, write_png
from descargan_tf.export import refusals
from descargan_tf.export.bytes_input import FileRule
from descargan_tf.export.client import Client
from descargan_tf.export.embedded.models import ModelConfig
from descargan_tf.export.embedded.server import EmbeddedServer, ServerSettings
from descargan_tf.export.saved_model import Predictor, write_saved_model

pytestmark = pytest.mark.usefixtures("shallow", "graphs_as_traced")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            Reply(401, b"<html>"),
            "the server answered 401: Unauthorized; it wants credentials: user and password in the URL, or "
            "--header='Authorization: Bearer <token>'",
        ),
        (error(403, "RBAC: access denied"), "the server answered 403: RBAC: access denied; it wants credentials: user"),
        (Reply(413, b"<html>"), "the server answered 413: Request Entity Too Large; the file is larger than it takes"),
        (
            Reply(301, b"", {"Location": f"https://u:{SECRET}@new.example/a/v1/models/descargan:predict"}),
            "the server answered 301: Moved Permanently; it has moved, give --url=https://new.example/a",
        ),
        (
            Reply(302, b"", {"Location": f"https://sso.example/login?state={SECRET}"}),
            "the server answered 302: Found; it sends its callers to https://sso.example/login, perhaps to log in",
        ),
        (
            error(404, "Servable not found for request: Specific(m, 9)"),
            "the server answered 404: it has no version 9 of model m; see what it serves, and give --model_name, ",
        ),
        (
            error(404, "Servable not found for request: Latest(m)"),
            "the server answered 404: it has no model m; see what it serves",
        ),
        (
            error(400, "Unrecognized servable version label: canary"),
            "the server answered 400: no version of the model is labelled canary; see what",
        ),
        (
            error(400, 'Serving signature name: "serving_bytes" not found in signature def'),
            "the server answered 400: its model has no signature serving_bytes, which takes image files; export it",
        ),
        (
            error(400, "assertion failed: [no words known here:] [7]\n\t [[{{node a/Assert}}]]"),
            "the server answered 400: no words known here: 7",
        ),
        (error(400, "assertion failed: [Condition x == y did not hold]"), "the server answered 400: Condition x == y"),
        (error(400, "assertion failed: "), "the server answered 400: "),
    ],
)
def test_what_a_server_says_is_explained(server, reply, message):
    server.script.append(reply)
    said = refusal(server.url)
    assert said.startswith(message)
    assert SECRET not in said


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "breaks off or cannot be read: SSH-2.0-OpenSSH_9.2; is that a model server"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
            "cannot be read: IncompleteRead(1 bytes read, 8 more expected)",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "breaks off or cannot be read: IncompleteRead",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
            "breaks off or cannot be read: Error -3 while decompressing data: incorrect header check",
        ),
        (b"", "breaks off or cannot be read: Remote end closed connection without response"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"[" * 200_000, "answered, but not as a model server does"),
    ],
    ids=range(6),
)
def test_what_is_no_answer_is_said_to_be_none(server, answer, words):
    def instead(handler):
        handler.wfile.write(answer)
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_WR)
        handler.close_connection = True

    server.script.append(Reply(200, b"", before=instead))
    assert words in refusal(server.url)


def test_a_time_to_come_back_that_is_none_is_passed_over(server):
    server.script.append(error(503, "later", **{"Retry-After": "soon"}))
    with Client(server.url, first_wait_seconds=0.01) as client:
        assert client.predict(png()).disease_probability == outputs_of(png())["disease_probability"]


RNG = np.random.default_rng(3)
GRAY = RNG.integers(0, 256, (64, 64)).astype(np.uint8)


def encoded(pixels, format="PNG", mode=None):
    stream = io.BytesIO()
    Image.fromarray(pixels, mode).save(stream, format)
    return stream.getvalue()


def header_of(height, width, bits, colour):
    numbers = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + numbers + bytes([bits, colour, 0, 0, 0]) + bytes(4)


DAMAGED = "cannot be read: damaged or cut off; expected a whole PNG or JPEG file, save or copy it again"
REFUSED = {
    "colour.png": (
        encoded(RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8)),
        "is a colour image: its channels differ; expected gray, convert it to one gray channel",
    ),
    "glass.png": (
        encoded(np.zeros((8, 8, 4), np.uint8)),
        "has transparent pixels, whose values mean nothing; flatten it to one gray channel",
    ),
    "deep.png": (
        header_of(8, 8, 16, 2),
        "holds 16-bit colour, which would lose its lower bits; save it with one gray channel",
    ),
    "large.png": (
        header_of(40000, 50000, 8, 0),
        "claims 40000x50000 pixels, expected 1 to 33554432; make it smaller, or is this no image?",
    ),
    "cmyk.jpg": (
        encoded(np.zeros((8, 8, 4), np.uint8), "JPEG", "CMYK"),
        "is a JPEG of 8 bits and 4 channels; expected 8 bits and 1 or 3 channels, save it as gray PNG",
    ),
    "bright.png": (
        encoded(np.uint8([[0, 255]])),
        "holds values from 0 to 255, and the model was trained on 10 to 200; scale it as the training images were",
    ),
    "cut.png": (encoded(GRAY)[:-500], DAMAGED),
    "cut.jpg": (encoded(GRAY, "JPEG")[:-500], DAMAGED),
    "head.png": (encoded(GRAY)[:20], DAMAGED),
    "head.jpg": (encoded(GRAY, "JPEG")[:30], DAMAGED),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_refused_images_are_named_with_what_to_do(tmp_path, capsys):
    """By a real export, so that the graph's words and those known here stay the same."""
    rule = FileRule(Scaling(10, 200), "uint8")
    write_saved_model(tmp_path / "m" / "1", Predictor(exports.OnlyClasses(), exports.SIZE), rule)
    for name, (content, _) in REFUSED.items():
        (tmp_path / name).write_bytes(content)
    files = [tmp_path / name for name in REFUSED]
    models = [ModelConfig("descargan", tmp_path / "m")]
    with EmbeddedServer(ServerSettings(models, rest_api_port=None)) as server:
        assert run(server.url, *files, f"--output_dir={tmp_path / 'out'}") == 1
    assert capsys.readouterr().err.splitlines() == [
        f"not done: {tmp_path / name}: {message}" for name, (_, message) in REFUSED.items()
    ]


def test_words_of_a_graph_are_cut_to_a_line():
    assert refusals.plain("a\n b") == "a b"
    assert len(refusals.plain(json.dumps("x" * 1000))) == refusals.MAX_QUOTED


# ---- what only predict reads


def test_folders_of_tiff_are_sent_to_predict(tmp_path, capsys, server):
    folder = tmp_path / "my scans"
    folder.mkdir()
    for name in ("a.TIF", "b.tiff", "c.npy"):
        (folder / name).write_bytes(b"II*\0")
    assert run(server.url, folder) == 2
    there = f"`python -m descargan_tf.main --mode=predict '--input={folder}' ...` reads it by itself"
    assert capsys.readouterr().err == (
        f"error: {folder} holds no image file that an export reads: .png, .jpg, .jpeg; it holds 1 npy and 2 TIFF; "
        f"{there}\n"
    )
    write_png(folder / "d.png", picture(1))
    assert run(server.url, folder, f"--output_dir={tmp_path / 'out'}") == 0
    assert capsys.readouterr().err == f"passed over in {folder}: 1 npy and 2 TIFF; {there}\n"
    assert run(server.url, folder / "a.TIF", f"--output_dir={tmp_path / 'out'}") == 1
    assert capsys.readouterr().err == (
        f"not done: {folder / 'a.TIF'}: is TIFF, and an export reads PNG and JPEG; "
        f"{there.replace(str(folder), str(folder / 'a.TIF'))}, or convert it to PNG\n"
    )
    assert len(server.requests) == 1
