"""Ask a model server about image files: python -m export.client --url http://127.0.0.1:8501 FILES...

It speaks TensorFlow Serving's REST API, so the server is TensorFlow Serving or `export.embedded`, and sends each file
as it is (PNG or JPEG, signature `serving_bytes`). It needs neither TensorFlow nor Keras. Proxies are those of
HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY. Credentials go into --header or the URL, and are never printed. From a
program:

    from export.client import Client

    with Client("http://127.0.0.1:8501") as client:
        answer = client.predict("scan.png")
        print(answer.disease_probability, answer.anomaly_map.shape)
"""

import argparse
import base64
import collections
import contextlib
import json
import logging
import os
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np
import urllib3
from tqdm import tqdm

from descargan_tf import program, signals
from descargan_tf.errors import UserError
from descargan_tf.files import reason, write_atomically
from descargan_tf.names import one_line
from descargan_tf.prediction.table import TABLE, labels, output_names, refuse_folder_of_inputs, write_table
from descargan_tf.types import CLASS_NAMES

from . import connection, refusals
from .answers import SIGNATURE, Answer, check_content, find_inputs, read_image, tell_what_is_passed_over

BUSY = (429, 503)  # "later", said by the server itself; every other refusal would be repeated

_EXPORTED = "was the model exported by this program?"
_LONGEST_WAIT_SECONDS = 60
_URL_HELP = "the server's REST API, such as http://127.0.0.1:8501, or https://user:password@host/path"
_END_SECONDS = 0.5  # that files which are being written have to be finished


class RequestError(UserError):
    """The server could not be reached or did not answer as asked; `status` is the HTTP status, None without one."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class Backoff(urllib3.Retry):
    """Waits up to twice as long before each further attempt, by chance, so that clients do not return in step.

    A `Retry-After` header of the server goes first. A request that ran out of time is not sent again: the server may
    still be at work on it.

    Args:
        ended: ends all waiting once it is set; UserError then.
    """

    def __init__(self, *args, ended: threading.Event | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self._ended = ended or threading.Event()

    def new(self, **changes) -> "Backoff":
        """One like this but for some arguments."""
        return super().new(**{"ended": self._ended, **changes})

    def sleep(self, response=None) -> None:
        """Wait before the next attempt."""
        asked = None
        if response and self.respect_retry_after_header:
            with contextlib.suppress(urllib3.exceptions.InvalidHeader):  # neither seconds nor a date
                asked = self.get_retry_after(response)
        if self._ended.wait(asked or self.get_backoff_time()):
            raise UserError("not sent again: the program ends")

    def get_backoff_time(self) -> float:
        """Seconds to wait, between half and all of backoff_factor * 2^(failures - 1)."""
        longest = min(self.backoff_max, self.backoff_factor * 2 ** max(len(self.history) - 1, 0))
        return random.uniform(longest / 2, longest)

    def increment(self, *args, error=None, **kwargs):
        """Count a failure; raises it where nothing more is to be tried."""
        if isinstance(error, urllib3.exceptions.ReadTimeoutError):
            raise error
        return super().increment(*args, error=error, **kwargs)


class Client:
    """One model on one server; may be used from several threads at once.

    Args:
        url: of the server's REST API, without /v1; what stands in front of it (a path of a proxy) is kept. User and
            password in it (http://user:password@host) are sent as basic authentication; `Client.url` is without them.
        model_name: as the server calls it.
        version: of the model; None takes the latest.
        label: of a version, instead of its number.
        timeout_seconds: for one attempt.
        retries: further attempts after 429, 503 or a broken connection.
        first_wait_seconds: before the second attempt, doubled for each further one.
        connections: kept open at most, and so requests at a time.
        headers: sent with every request, such as {"Authorization": "Bearer ..."}; pairs where a name comes twice.

    Raises:
        UserError: an argument, or the proxy that the environment names, is impossible.
    """

    def __init__(
        self,
        url: str,
        model_name: str = "descargan",
        version: int | None = None,
        label: str | None = None,
        timeout_seconds: float = 60.0,
        retries: int = 5,
        first_wait_seconds: float = 0.5,
        connections: int = 4,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ):
        self._address = address = connection.parse_address(url)
        if version is not None and label is not None:
            raise UserError(f"version {version} and label {label} were both given; name the model by one of them")
        self.url = address.url
        self._headers = connection.build_headers(address, headers)
        self.proxy = connection.find_proxy(address)
        self._model = f"{self.url}/v1/models/{quote(model_name, safe='')}"
        self._version = ""
        if version is not None:
            self._version = f"/versions/{version}"
        elif label is not None:
            self._version = f"/labels/{quote(label, safe='')}"
        self._ended = threading.Event()
        self._backoff = Backoff(
            total=retries,
            ended=self._ended,
            allowed_methods=None,  # a prediction changes nothing, so its POST may be repeated
            status_forcelist=BUSY,
            backoff_factor=first_wait_seconds,
            backoff_max=_LONGEST_WAIT_SECONDS,
            retry_after_max=_LONGEST_WAIT_SECONDS,
            raise_on_status=False,
        )
        self._timeout_seconds = timeout_seconds
        self._pool = connection.open_pool(self.proxy, maxsize=connections, block=True, timeout=timeout_seconds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.clear()

    def end(self) -> None:
        """Wait for nothing any more: threads that would send again raise UserError."""
        self._ended.set()

    def versions(self) -> dict[int, str]:
        """The state of each version that the server knows, such as {1: "AVAILABLE"}; RequestError without an answer."""
        # A wrong URL should not take the patience that a busy server deserves.
        answer = self._request("GET", self._model, retries=min(2, self._backoff.total))
        try:
            return {int(entry["version"]): entry["state"] for entry in answer["model_version_status"]}
        except (KeyError, TypeError, ValueError) as error:
            raise self._not_a_model_server() from error

    def predict(self, image: str | Path | bytes) -> Answer:
        """Ask about one image file, or its bytes.

        Raises:
            UserError: the file cannot be read or is neither PNG nor JPEG.
            RequestError: no answer, or a refusal: what is wrong with the image or the model where that is known, else
                the server's words.
        """
        if isinstance(image, bytes):
            content = image
            check_content(content)
        else:
            content = read_image(Path(image))
        instance = {"image_bytes": {"b64": base64.b64encode(content).decode()}}
        body = json.dumps({"signature_name": SIGNATURE, "instances": [instance]})
        return _to_answer(self._request("POST", f"{self._model}{self._version}:predict", body))

    def _request(self, method, url, body=None, retries=None):
        headers = self._headers.copy()
        if body:
            headers.setdefault("Content-Type", "application/json")
        backoff = self._backoff if retries is None else self._backoff.new(total=retries)
        try:
            response = self._pool.request(method, url, body=body, headers=headers, redirect=False, retries=backoff)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise RequestError(
                f"no answer from {self.url} within {self._timeout_seconds:g} s; allow more time or send fewer at a time"
            ) from error
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise RequestError(refusals.why_not_reached(reason, self._address, self.proxy)) from error
        try:
            answer = json.loads(response.data)
        except (ValueError, RecursionError):
            answer = None
        if response.status == 200:
            if not isinstance(answer, dict):
                raise self._not_a_model_server()
            return answer
        has_credentials = "authorization" in self._headers
        raise RequestError(
            refusals.why_refused(response, answer, self._address, self.proxy, has_credentials), response.status
        )

    def _not_a_model_server(self):
        return RequestError(f"{self.url} answered, but not as a model server does; is the URL right?", 200)


def predict_files(
    client: Client,
    files: list[Path],
    output_dir: Path,
    concurrency: int = 4,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Write what `--mode=predict` writes: healthy image, map and overlay for each file, `predictions.csv` for all.

    Args:
        client: with at least as many connections as `concurrency`.
        files: PNG and JPEG files.
        output_dir: made if need be; files of the same names are replaced.
        concurrency: requests at a time.
        progress: called with the number of files just done.

    Returns:
        A message per file that could not be read, sent or written, in the order of `files`; all others are done. What
        ends it early does so at once, and leaves a table of what was done by then.
    """
    refuse_folder_of_inputs(files, output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written: {reason(error)}") from error
    names, called = output_names(files), labels(files)

    def run(file):
        answer = client.predict(file)
        if threads.is_ended:
            raise UserError("not written: the program ends")
        for name, content in answer.files(names[file]).items():
            write_atomically(output_dir / name, content)
        return answer.row(called[file])

    rows, failed = {}, {}

    def left():
        return f"{len(rows)} of {len(files)} images done" + (f": {output_dir / TABLE}" if rows else "")

    threads = _Threads(run, files, concurrency)
    with signals.leaving(left):
        try:
            for file, row, error in threads.results():
                if error is None:
                    rows[file] = row
                elif isinstance(error, UserError):
                    failed[file] = f"{file}: {error}"
                else:
                    raise error
                if progress:
                    progress(1)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                client.end()
            rows |= {file: row for file, row, failure in threads.end() if failure is None}
            if rows:
                write_table(output_dir, [rows[file] for file in files if file in rows])
            raise
        write_table(output_dir, [rows[file] for file in files if file in rows])
    return [failed[file] for file in files if file in failed]


class _Threads:
    """`run(file)` of files in threads; the end of the program does not wait for them, as it does for an executor's."""

    def __init__(self, run, files, count):
        self._run, self._waiting, self._left = run, collections.deque(files), len(files)
        self._done: queue.SimpleQueue = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(min(count, len(files)))]
        self.is_ended = False

    def results(self) -> Iterator[tuple]:
        """(file, result or None, exception or None), as they are done."""
        for thread in self._threads:
            thread.start()
        for _ in range(self._left):
            yield self._done.get()

    def end(self) -> list[tuple]:
        """Begin nothing more; further results, with those that are being written to disk."""
        self._waiting.clear()
        self.is_ended = True
        deadline = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(deadline - time.monotonic(), 0))
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._done.get_nowait())
        return found

    def _work(self):
        with contextlib.suppress(IndexError):  # no file is left
            while True:
                file = self._waiting.popleft()
                result, error = None, None
                try:
                    result = self._run(file)
                except BaseException as raised:  # the main thread's to judge
                    error = raised
                self._done.put((file, result, error))


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 done, 1 some files failed, 2 bad input or no model, 128 + n stopped by signal n.
    """
    return program.run(lambda: _run(argv))


@signals.leaving("nothing was sent")
def _run(argv):
    arguments = _parser().parse_args(argv)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its notes on every retry would tear the progress bar
    files = find_inputs(arguments.files)
    for folder in filter(Path.is_dir, arguments.files):
        tell_what_is_passed_over(folder)
    with Client(
        arguments.url,
        arguments.model_name,
        arguments.model_version,
        arguments.model_label,
        arguments.timeout_seconds,
        arguments.retries,
        connections=arguments.concurrency,
        headers=arguments.header,
    ) as client:
        if client.proxy:
            print(f"asking {client.url} through the proxy {client.proxy}", file=sys.stderr)
        states = client.versions()
        if "AVAILABLE" not in states.values():
            raise UserError(f"no version of {arguments.model_name} is available at {client.url}: {states}")
        with tqdm(total=len(files), unit="image", disable=None, desc="predict") as bar:
            failed = predict_files(client, files, arguments.output_dir, arguments.concurrency, bar.update)
    print(f"{len(files) - len(failed)} of {len(files)} images done: {arguments.output_dir / TABLE}")
    for message in failed:
        print(f"not done: {one_line(message)}", file=sys.stderr)
    return 1 if failed else 0


def _parser():
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.client",
        description="Ask a model server about PNG and JPEG files; write maps, overlays and predictions.csv.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=_path, metavar="FILES", help="image files, or folders of them")
    parser.add_argument("--url", required=True, help=_URL_HELP)
    parser.add_argument("--model_name", default="descargan", help="as the server calls it")
    parser.add_argument(
        "-H",
        "--header",
        action="append",
        type=_header,
        default=[],
        metavar="NAME: VALUE",
        help='sent with every request, such as "Authorization: Bearer <token>"; may be repeated',
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model_version", type=int, help="a version by number; without it the latest")
    which.add_argument("--model_label", help="a version by label, such as canary")
    parser.add_argument("--output_dir", type=_path, default=Path("predictions"), help="made if need be")
    parser.add_argument("--concurrency", type=_positive(int), default=4, help="requests at a time")
    parser.add_argument("--timeout_seconds", type=_positive(float), default=60.0, help="for one attempt")
    parser.add_argument("--retries", type=_natural, default=5, help="attempts after 429, 503 or a broken connection")
    return parser


def _header(text):
    try:
        return connection.parse_header(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _path(text):
    return Path(os.path.expanduser(text))


def _positive(kind):
    def parse(text):
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    parse.__name__ = kind.__name__
    return parse


def _natural(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def _to_answer(response):
    readers = {
        "anomaly_map": _plane,
        "healthy_image": _plane,
        "disease_probability": float,
        "anomaly_score": float,
        "predicted_class": _class_name,
        "overlay_png_bytes": _content,
        "anomaly_map_png_bytes": _content,
    }
    try:
        (outputs,) = response["predictions"]
        found = {name.removesuffix("_bytes"): read(outputs[name]) for name, read in readers.items() if name in outputs}
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"the server's answer cannot be read ({error}); {_EXPORTED}", 200) from error
    if not found:
        raise RequestError(f"the server's answer holds none of {', '.join(readers)}; {_EXPORTED}", 200)
    return Answer(**dict.fromkeys(Answer._fields) | found)


def _content(encoded):
    return base64.b64decode(encoded["b64"])


def _class_name(label):
    if label not in range(len(CLASS_NAMES)):
        raise ValueError(f"predicted_class {label!r}, expected 0 or 1")
    return CLASS_NAMES[label]


def _plane(nested):
    array = np.array(nested, np.float32)
    if array.ndim != 3 or array.shape[2] != 1:
        raise ValueError(f"shape {list(array.shape)}, expected [H, W, 1]")
    return array[..., 0]


if __name__ == "__main__":
    sys.exit(main())
