"""What a model server says when it refuses, in this program's words: what was found, what was expected, what to do.

The server's words are the graph's (`bytes_input`) within TensorFlow's, and TensorFlow Serving's own. Where something
else has answered, or nothing, it is said what may have been in between.
"""

import re

import urllib3

from .connection import Address, Proxy, without_secrets

MAX_QUOTED = 300  # characters of a server's own words in a message

_REQUEST_REFUSED = (400, 404)  # by TensorFlow Serving, whose words are known
_NO_SUCH = "; see what it serves, and give --model_name, --model_version or --model_label"
_NOT_EXPORTED = (
    "its model has no signature serving_bytes, which takes image files; export it with this program (--mode=export)"
)
_DAMAGED = "cannot be read: damaged or cut off; expected a whole PNG or JPEG file, save or copy it again"

# Of an image, in the words of `predict` where that says it, too.
_IMAGE = (
    (r"is a colour image", "is a colour image: its channels differ; expected gray, convert it to one gray channel"),
    (
        r"has transparent pixels",
        "has transparent pixels, whose values mean nothing; flatten it to one gray channel",
    ),
    (
        r"16-bit PNG must have one gray channel",
        "holds 16-bit colour, which would lose its lower bits; save it with one gray channel",
    ),
    (
        r"JPEG must have 8 bits.* are (\d+) (\d+)",
        r"is a JPEG of \1 bits and \2 channels; expected 8 bits and 1 or 3 channels, save it as gray PNG",
    ),
    (
        r"too large or empty, at most (\d+) pixels; height and width are (\d+) (\d+)",
        r"claims \2x\3 pixels, expected 1 to \1; make it smaller, or is this no image?",
    ),
    (
        r"values \(lowest, highest\) (\S+) (\S+) leave the range (\S+),\s*(\S+) of the training images",
        r"holds values from \1 to \2, and the model was trained on \3 to \4; scale it as the training images were",
    ),
    (r"Unknown image file format", "is neither PNG nor JPEG, which is what an export reads; convert it first"),
    (r"Invalid PNG|Invalid JPEG data|damaged JPEG|jpeg::Uncompress|PNG without its header", _DAMAGED),
)

# Of the model.
_MODEL = (
    (r'Serving signature name: "?serving_bytes"? not found', _NOT_EXPORTED),
    (r"does not have named input: image_bytes|keys must be equal to", _NOT_EXPORTED),
    (r"Servable not found for request: Latest\((.*)\)", rf"it has no model \1{_NO_SUCH}"),
    (r"Servable not found for request: Specific\((.*), (\d+)\)", rf"it has no version \2 of model \1{_NO_SUCH}"),
    (r"Could not find any versions of model (\S+)", rf"it has no model \1{_NO_SUCH}"),
    (r"Could not find version (\d+) of model (\S+)", rf"it has no version \1 of model \2{_NO_SUCH}"),
    (r"Unrecognized servable version label: (\S+)", rf"no version of the model is labelled \1{_NO_SUCH}"),
)


def why_not_reached(reason: Exception, address: Address, proxy: Proxy | None) -> str:
    """What stands between, or that nobody is there."""
    if isinstance(reason, urllib3.exceptions.ProxyError):
        words = _words_of(reason.original_error)
        if words.startswith("407 "):
            return _asks_for_credentials(proxy)
        return (
            f"the proxy {proxy} does not lead to {address.url}: {words}; is it the right one? "
            f"NO_PROXY={address.host} goes around it"
        )
    if isinstance(reason, urllib3.exceptions.SSLError):
        return (
            f"{address.url} is not trusted: {_words_of(reason)}; is it https there? SSL_CERT_FILE names the file of an "
            "authority of your own"
        )
    if isinstance(reason, (urllib3.exceptions.ProtocolError, urllib3.exceptions.DecodeError)):
        words = " ".join(str(reason.args[-1]).split())[:MAX_QUOTED]
        return (
            f"the answer of {address.url} breaks off or cannot be read: {words}; is that a model server, and at work?"
        )
    through = f" through the proxy {proxy}" if proxy else ""
    return f"{address.url} cannot be reached{through}: {_words_of(reason)}; is the server running, and at this URL?"


def why_refused(
    response: urllib3.BaseHTTPResponse, answer: object, address: Address, proxy: Proxy | None, has_credentials: bool
) -> str:
    """What an answer means whose status is not 200.

    Args:
        response: with its status, reason and headers.
        answer: its JSON, None where it is none.
        address: that was asked.
        proxy: that it was asked through.
        has_credentials: whether an Authorization header was sent.
    """
    status, location = response.status, response.get_redirect_location()
    is_own = isinstance(answer, dict) and "error" in answer  # of a model server, and not of what is before it
    words = plain(str(answer["error"] if is_own else response.reason))
    if is_own and status in _REQUEST_REFUSED:
        about_image = why_image_refused(words)
        if about_image:
            return about_image
        words = _find(_MODEL, words) or words
    elif proxy and status == 407:
        return _asks_for_credentials(proxy)
    elif location:
        words = f"{words}; {_whither(location)}"
    elif status in (401, 403):
        wants = "does not take the credentials given" if has_credentials else "wants credentials"
        words = f"{words}; it {wants}: user and password in the URL, or --header='Authorization: Bearer <token>'"
    elif status == 413:
        words = f"{words}; the file is larger than it takes"
    if proxy and not is_own:
        return (
            f"the server, or the proxy {proxy} before it, answered {status}: {words}; "
            f"NO_PROXY={address.host} goes around the proxy"
        )
    return f"the server answered {status}: {words}"


def why_image_refused(words: str) -> str | None:
    """What is wrong with an image, of which the graph says this; None where that is not known."""
    return _find(_IMAGE, words)


def plain(words: str) -> str:
    """A server's words on one line, without what TensorFlow puts around those of a graph.

    `assertion failed: [is too large] [7] [9] [[{{node Assert}}]]` is: is too large 7 9.
    """
    words = words.rpartition("<stack traces unavailable>")[2]  # where a graph is called without a server
    text = " ".join(re.sub(r"\[\[\{\{.*", "", words, flags=re.DOTALL).split())
    if text.startswith("assertion failed:"):
        text = " ".join(re.findall(r"\[([^\]]*)\]", text)) or text.removeprefix("assertion failed:").strip()
        text = text.removeprefix("image_bytes: ")
    return text[:MAX_QUOTED]


def _find(table, words):
    for pattern, meaning in table:
        match = re.search(pattern, words)
        if match:
            return match.expand(meaning)
    return None


def _asks_for_credentials(proxy):
    words = "does not take the user and password that were given" if proxy.authorization else "wants user and password"
    return f"the proxy {proxy} {words} (407); expected {proxy.variable}=http://user:password@host:port"


def _whither(location):
    shown = without_secrets(location).partition("?")[0]
    base, is_api, _ = shown.partition("/v1/models/")
    if is_api and "://" in base:
        return f"it has moved, give --url={base}"
    return f"it sends its callers to {shown}, perhaps to log in; credentials go into --header or the URL"


def _words_of(reason):
    # urllib3 puts its connection object in front: "HTTPConnection(host=..., port=...): Failed to ...".
    return re.sub(r"^(\w*Connection\w*\([^)]*\)|Tunnel connection failed): ", "", str(reason)).strip()
