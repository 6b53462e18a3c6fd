"""TensorFlow Serving's REST contract as pure functions: URL and JSON text to tensors, tensors to JSON text. No HTTP.

Error texts are those that clients of TensorFlow Serving match on. Where this departs from it, the reason stands there.
"""

import base64
import itertools
import json
import re
import urllib.parse
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import orjson

from .status import Code, ServingError, invalid
from .types import DEFAULT_SIGNATURE, TensorSpec, shape_text, type_name

BYTES_SUFFIX = "_bytes"  # an output of strings so named holds bytes, not text

_MAX_RANK = 64  # numpy's; TensorFlow's own is 254
_SHOWN_CHARACTERS = 200  # of a value quoted in an error, which may be megabytes long
_INT32 = (-(2**31), 2**31 - 1)
# Types that JSON can hold -> numpy's type and the integers taken. Small integers are read as int32 and wrap around.
_NUMBERS = {
    "float": (np.float32, None),
    "double": (np.float64, None),
    "int8": (np.int8, _INT32),
    "int16": (np.int16, _INT32),
    "int32": (np.int32, _INT32),
    "uint8": (np.uint8, _INT32),
    "int64": (np.int64, (-(2**63), 2**63 - 1)),
    "uint32": (np.uint32, (0, 2**32 - 1)),
    "uint64": (np.uint64, (0, 2**64 - 1)),
}
_WRITABLE = {np.dtype(kind).name for kind, _ in _NUMBERS.values()} | {"bool"}
_JSON_TYPES = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number", type(None): "Null"}


class Route(NamedTuple):
    """What a URL asks for."""

    verb: str  # predict, classify, regress, status, metadata
    model: str
    version: int | None
    label: str | None


class _Constant(float):
    """NaN or an infinity that the text names; any other infinity is a number too big for a double."""


# ---- URLs


_MODEL = r"/v1/models/([^/:]+)(?:(?:/versions/([0-9]+))|(?:/labels/([^/:]+)))?"
_POST = re.compile(_MODEL + r":(classify|regress|predict)", re.IGNORECASE)
_GET = re.compile(_MODEL.replace("/([^/:]+)", "(?:/([^/:]+))?", 1) + r"(?:/(metadata))?", re.IGNORECASE)


def parse_route(method: str, target: str) -> Route:
    """What a request asks for.

    Args:
        method: GET or POST.
        target: path and query as sent, still percent-encoded: a query makes any path malformed.

    Raises:
        ServingError: malformed, no model named, a version beyond int64.
    """
    match = {"POST": _POST, "GET": _GET}[method].fullmatch(target) if method in ("POST", "GET") else None
    # The expressions ignore case, but verbs are compared as they are: `:PREDICT` is malformed, `/METADATA` is a status.
    if not match or (method == "POST" and not match[4].islower()):
        raise invalid(f"Malformed request: {method} {target}")
    name, version, label, verb = match.groups()
    if not name:
        raise invalid("Missing model name in request.")
    if version and int(version) > _NUMBERS["int64"][1][1]:
        # Departs: TensorFlow Serving leaves the body of this one error empty.
        raise invalid(f"Failed to convert version: {version} to numeric.")
    if method == "GET":
        verb = "metadata" if verb == "metadata" else "status"
    decoded = urllib.parse.unquote(label) if label else None
    return Route(verb, urllib.parse.unquote(name), int(version) if version else None, decoded)


# ---- JSON to tensors


def parse_json(text: bytes) -> dict:
    """The object at the start of a text; what follows it is ignored, of equal keys the first counts.

    Raises:
        ServingError: not JSON, or not an object.
    """
    try:
        content = text.decode("utf-8-sig").lstrip()
        if not content:
            raise invalid("JSON Parse error: The document is empty")
        document, _ = _DECODER.raw_decode(content)
    except json.JSONDecodeError as error:
        reason = "Invalid value" if error.msg == "Expecting value" else error.msg
        raise invalid(f"JSON Parse error: {reason}. at offset: {error.pos}") from None
    except UnicodeDecodeError as error:
        raise invalid(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from None
    except RecursionError:
        raise invalid(f"JSON Parse error: nested deeper than any tensor, whose rank is {_MAX_RANK} at most") from None
    except ValueError:  # an integer of thousands of digits
        raise _too_big() from None
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {shown(document)} Is not object")
    return document


def signature_name(document: dict) -> str:
    """The signature that a request names, or the default one.

    Raises:
        ServingError: it is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name or DEFAULT_SIGNATURE


def read_tensors(document: dict, inputs: Mapping[str, TensorSpec]) -> tuple[dict[str, np.ndarray], bool]:
    """The input tensors of a predict request.

    Returns:
        Tensors by input name, bytes as object arrays; whether the request is in the row format.

    Raises:
        ServingError: neither or both formats, a name, a shape or a value that does not fit. Shapes are not compared
            with the signature: see `types.check_shape`.
    """
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid(f"JSON Value: {shown(document)} Expecting 'instances' to be an list/array")
        if not instances:
            raise invalid(f"JSON Value: {shown(document)} No values in 'instances' array")
        return _read_instances(instances, inputs), True
    if "inputs" in document:
        return _read_inputs(document["inputs"], inputs), False
    raise invalid("Missing 'inputs' or 'instances' key")


def _read_instances(instances, inputs):
    named = _is_named(instances[0])
    if not named and len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    for number, instance in enumerate(instances):
        if _is_named(instance) != named:
            expected, found = ("object", "list") if named else ("value/list", "object")
            raise invalid(f"Expecting {expected} but got {found} at item {number} of input list")
    if not named:
        ((name, spec),) = inputs.items()
        return {name: _stack(instances, spec, "")}
    for number, instance in enumerate(instances):
        for name in instance:
            if name not in inputs:
                raise _in_instance(number, name, invalid(f"JSON object: does not have named input: {name}"))
        if instance.keys() != inputs.keys():
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: {shown(instance)} "
                f"keys must be equal to: {','.join(sorted(inputs))}"
            )
    return {name: _stack([instance[name] for instance in instances], spec, name) for name, spec in inputs.items()}


def _read_inputs(value, inputs):
    if not _is_named(value):
        if len(inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        ((name, spec),) = inputs.items()
        return {name: _tensor(value, spec)}
    for name in inputs:
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: _tensor(value[name], spec) for name, spec in inputs.items()}


def _stack(items, spec, key):
    """Instances of one input to a tensor with a new first dimension."""
    try:
        return _tensor(items, spec)
    except ServingError:
        # Each instance is judged alone and against the first: other words for the same fault.
        first = None
        for number, item in enumerate(items):
            try:
                shape, size = _check_nesting(item, spec)
                first = first or (shape, size)
                if size != first[1]:
                    raise invalid(f"Expecting tensor size: {first[1]} but got: {size}")
                if shape != first[0]:
                    raise invalid(f"Expecting shape {shape_text(first[0])} but got: {shape_text(shape)}")
            except ServingError as error:
                raise _in_instance(number, key, error) from None
        raise


def _tensor(value, spec):
    shape = _dense_shape(value)
    leaves = [value]
    for size in shape:
        if not all(type(part) is list and len(part) == size for part in leaves):
            _check_nesting(value, spec)
        leaves = list(itertools.chain.from_iterable(leaves))
    try:
        return _convert(leaves, spec.dtype).reshape(shape)
    except ServingError:
        _check_nesting(value, spec)  # a list among the values has words of its own
        raise


def _dense_shape(value):
    """Sizes along the first elements."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > _MAX_RANK:
            raise invalid(f"Encountered list at unexpected level: {_MAX_RANK + 1} expected < {_MAX_RANK}")
        value = value[0] if value else None
    return tuple(shape)


def _check_nesting(value, spec):
    """Shape and number of values of nested lists; the slow way, which finds the first fault."""
    shape = _dense_shape(value)
    count = 0

    def walk(part, level):
        nonlocal count
        if not isinstance(part, list):
            if level != len(shape):
                raise invalid(
                    f"JSON Value: {shown(part)} found at incorrect level: {level + 1} in the JSON DOM. "
                    f"Expected at level: {len(shape)}"
                )
            _convert([part], spec.dtype)
            count += 1
            return
        if level >= len(shape):
            raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        if len(part) != shape[level]:
            raise invalid(
                f"Encountered list at unexpected size: {len(part)} at level: {level} expected size: {shape[level]}"
            )
        if level == len(shape) - 1 and not any(isinstance(each, list) for each in part):
            _convert(part, spec.dtype)
            count += len(part)
            return
        for each in part:
            walk(each, level + 1)

    walk(value, 0)
    return shape, count


def _convert(leaves, dtype):
    """Values to a flat array."""
    if dtype == "string":
        array = np.empty(len(leaves), dtype=object)
        array[:] = [_to_bytes(leaf) for leaf in leaves]
        return array
    if dtype == "bool":
        return np.array(_all_of(leaves, (bool,), dtype), dtype=bool)
    if dtype not in _NUMBERS:
        first = shown(leaves[0]) if leaves else "[]"
        raise ServingError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {first} to type: {dtype}")
    kind, limits = _NUMBERS[dtype]
    if limits:
        for leaf in _all_of(leaves, (int,), dtype):
            if not limits[0] <= leaf <= limits[1]:
                raise _type_error(leaf, dtype)
        return np.array(leaves, dtype=np.uint64 if dtype == "uint64" else np.int64).astype(kind)
    _all_of(leaves, (int, float, _Constant), dtype)
    try:
        array = np.array(leaves, dtype=np.float64)
    except OverflowError:
        raise _too_big() from None
    if not np.isfinite(array).all() and any(type(leaf) is float and abs(leaf) == np.inf for leaf in leaves):
        raise _too_big()
    with np.errstate(over="ignore"):  # beyond the largest float is infinity
        return array.astype(kind)


def _all_of(leaves, types, dtype):
    if not set(map(type, leaves)) <= set(types):
        raise _type_error(next(leaf for leaf in leaves if type(leaf) not in types), dtype)
    return leaves


def _to_bytes(leaf):
    if isinstance(leaf, str):
        try:
            return leaf.encode()
        except UnicodeEncodeError:
            raise invalid("JSON Parse error: The surrogate pair in string is invalid.") from None
    if not is_base64(leaf):
        if isinstance(leaf, dict):
            raise invalid(f"JSON Value: {shown(leaf)} not formatted correctly for base64 data")
        raise _type_error(leaf, "string")
    return decode_base64(leaf)


def decode_base64(value: dict) -> bytes:
    """What `{"b64": text}` stands for; spaces are passed over and the padding may be missing.

    Raises:
        ServingError: not base64.
    """
    encoded = value["b64"]
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        packed = "".join(encoded.split()).rstrip("=")
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except ValueError:
        raise invalid("Unable to base64 decode") from None


def is_base64(value) -> bool:
    """Whether a JSON value stands for bytes."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_named(value):
    return isinstance(value, dict) and not is_base64(value)


def _first_of_equal_keys(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        found = dict(reversed(pairs))
    return found


# Departs: the bare words Inf and -Inf, which RapidJSON may take, are refused; NaN, Infinity and -Infinity are read.
_DECODER = json.JSONDecoder(object_pairs_hook=_first_of_equal_keys, parse_constant=_Constant)


# ---- tensors to JSON


def write_prediction(outputs: Mapping[str, np.ndarray], row_format: bool) -> bytes:
    """The answer to a predict request; a single output is not named.

    Floats are the shortest text that reads back as the same float; NaN and infinities are bare words.

    Raises:
        ServingError: a type that JSON cannot hold; in the row format, outputs that are not one row per instance.
    """
    if not row_format:
        parts = {name: _write(array, name) for name, array in outputs.items()}
        return b'{"outputs":' + (_object(parts) if len(parts) > 1 else next(iter(parts.values()))) + b"}"
    batch_size = None
    for name, array in outputs.items():
        if not array.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch_size not in (None, len(array)):
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {batch_size}")
        batch_size = len(array)
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return b'{"predictions":' + _write(array, name) + b"}"
    rows = (_object({name: _write(array[i, ...], name) for name, array in outputs.items()}) for i in range(batch_size))
    return b'{"predictions":[' + b",\n".join(rows) + b"]}"


def write_results(results: list) -> bytes:
    """The answer to classify or regress: nested lists of text and numpy floats."""
    return b'{"results":' + orjson.dumps(results, option=orjson.OPT_SERIALIZE_NUMPY) + b"}"


def write_error(message: str) -> bytes:
    """The body of every answer that is not a result."""
    return json.dumps({"error": message}, indent=4).encode()


def _object(parts):
    return b"{" + b",".join(orjson.dumps(name) + b":" + text for name, text in parts.items()) + b"}"


def _write(array, name):
    if array.dtype == object:
        return orjson.dumps(_strings(array, name))
    if array.dtype.name not in _WRITABLE:
        raise invalid(f"Failed to write JSON value for tensor type: {type_name(array.dtype.name)}")
    # orjson writes a float32 as what it is, shortest digits first, ten times as fast as numpy or Python.
    text = orjson.dumps(np.ascontiguousarray(array) if array.ndim else array[()], option=orjson.OPT_SERIALIZE_NUMPY)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        words = iter(array[~np.isfinite(array)])
        text = re.sub(b"null", lambda _: _NON_FINITE[str(next(words))], text)
    return text


_NON_FINITE = {"nan": b"NaN", "inf": b"Infinity", "-inf": b"-Infinity"}


def _strings(array, name):
    if array.ndim:
        return [_strings(array[i, ...], name) for i in range(len(array))]
    value = array[()]
    content = value if isinstance(value, bytes) else str(value).encode()
    if name.endswith(BYTES_SUFFIX):
        return {"b64": base64.b64encode(content).decode()}
    try:
        return content.decode()
    except UnicodeDecodeError:
        # Departs: TensorFlow Serving writes the bytes as they are, which no JSON reader takes.
        raise invalid(f"Output {name} is not UTF-8 text; outputs of bytes have names that end in _bytes.") from None


# ---- errors


def _type_error(value, dtype):
    return invalid(f"JSON Value: {shown(value)} Type: {json_type(value)} is not of expected type: {dtype}")


def json_type(value) -> str:
    """What JSON calls a value, in RapidJSON's spelling."""
    return str(value) if isinstance(value, bool) else _JSON_TYPES.get(type(value), "Number")


def _too_big():
    return invalid("JSON Parse error: Number too big to be stored in double.")


def _in_instance(number, key, error):
    named = f" key: {key}" if key else ""
    return invalid(f"Failed to process element: {number}{named} of 'instances' list. Error: {error}")


def shown(value) -> str:
    """A value of a request as JSON, cut to what an error message can hold."""
    text = ""
    for part in json.JSONEncoder(ensure_ascii=False).iterencode(value):
        text += part
        if len(text) > _SHOWN_CHARACTERS:
            return text[:_SHOWN_CHARACTERS] + "..."
    return text
