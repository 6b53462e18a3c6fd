"""The JSON of TensorFlow Serving's REST contract without a server: values in and out, against numpy and json."""

import base64
import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from descargan_tf.export.embedded.rest_api import unpack
from descargan_tf.export.embedded.rest_contract import (
    parse_json,
    parse_route,
    read_tensors,
    signature_name,
    write_error,
    write_prediction,
)
from descargan_tf.export.embedded.status import Code, ServingError
from descargan_tf.export.embedded.types import TensorSpec, check_shape


def read(text, dtype="float", name="x"):
    """The one tensor of a request."""
    tensors, _ = read_tensors(parse_json(text.encode()), {name: TensorSpec(dtype, None)})
    return tensors[name]


def refusal(text, dtype="float"):
    with pytest.raises(ServingError) as caught:
        read(text, dtype)
    return caught.value


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=4), elements=st.floats(width=32)))
@settings(max_examples=100, deadline=None)
def test_floats_return_as_they_were(array):
    text = write_prediction({"y": array}, row_format=True)
    found = np.array(json.loads(text)["predictions"], np.float32)
    np.testing.assert_array_equal(found, array)
    again = read(json.dumps({"instances": json.loads(text)["predictions"]}))
    np.testing.assert_array_equal(again, array)
    assert again.dtype == np.float32


@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=2, max_side=4)))
@settings(max_examples=50, deadline=None)
def test_doubles_return_as_they_were(array):
    found = json.loads(write_prediction({"y": array}, row_format=False))["outputs"]
    np.testing.assert_array_equal(np.array(found), array)


def test_floats_are_as_short_as_they_can_be():
    array = np.array([0.2, 1 / 3, 2.0, 9e6, -0.0], np.float32)
    text = write_prediction({"y": array}, row_format=True).decode()
    assert text == '{"predictions":[0.2,0.33333334,2.0,9000000.0,-0.0]}'


def test_non_finite_numbers_are_bare_words():
    array = np.array([[np.nan, 1.0], [-np.inf, np.inf]], np.float32)
    assert write_prediction({"y": array}, row_format=False) == b'{"outputs":[[NaN,1.0],[-Infinity,Infinity]]}'
    assert write_prediction({"y": np.array(np.nan)}, row_format=False) == b'{"outputs":NaN}'


def test_several_outputs_are_named_row_by_row():
    outputs = {"a": np.array([[1], [2]], np.int64), "b": np.array([True, False]), "c": np.array([0.5, np.nan])}
    assert json.loads(write_prediction(outputs, True))["predictions"][0] == {"a": [1], "b": True, "c": 0.5}
    assert write_prediction(outputs, True).endswith(b'{"a":[2],"b":false,"c":NaN}]}')
    assert json.loads(write_prediction({"a": outputs["a"], "b": outputs["b"]}, False)) == {
        "outputs": {"a": [[1], [2]], "b": [True, False]}
    }


def test_only_outputs_named_bytes_are_base64():
    array = np.array([b"text", "Grün".encode()], dtype=object)
    assert json.loads(write_prediction({"label": array}, True)) == {"predictions": ["text", "Grün"]}
    expected = [{"b64": base64.b64encode(value).decode()} for value in array]
    assert json.loads(write_prediction({"label_bytes": array}, True)) == {"predictions": expected}
    with pytest.raises(ServingError, match="Output label is not UTF-8 text"):
        write_prediction({"label": np.array([b"\xff"], dtype=object)}, True)


def test_empty_tensors():
    assert write_prediction({"y": np.zeros((0, 2), np.float32)}, True) == b'{"predictions":[]}'
    both = {"y": np.zeros((0, 2), np.float32), "z": np.zeros((0,), np.int32)}
    assert write_prediction(both, True) == b'{"predictions":[]}'
    assert read('{"inputs": [[], []]}').shape == (2, 0)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"y": np.float32(1)[...]}, "Tensor name: y has no shape information"),
        (
            {"y": np.zeros(2, np.int32), "z": np.zeros(3, np.int32)},
            "Tensor name: z has inconsistent batch size: 3 expecting: 2",
        ),
        ({"y": np.zeros(2, np.float16)}, "Failed to write JSON value for tensor type: half"),
        ({"y": np.zeros(2, np.complex64)}, "Failed to write JSON value for tensor type: complex64"),
        ({"y": np.zeros(2, np.uint16)}, "Failed to write JSON value for tensor type: uint16"),
    ],
)
def test_outputs_that_rows_cannot_hold(outputs, words):
    with pytest.raises(ServingError, match=words) as caught:
        write_prediction(outputs, True)
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_b64_is_decoded_with_or_without_padding_and_spaces():
    for text in ("aGVsbG8=", "aGVsbG8", "aGVs bG8="):
        assert read(json.dumps({"instances": [{"b64": text}]}), "string").tolist() == [b"hello"]
    nested = read('{"instances": [[{"b64": "aGVsbG8="}], [{"b64": "d29ybGQ="}]]}', "string")
    assert nested.tolist() == [[b"hello"], [b"world"]]
    assert read('{"inputs": {"b64": "aGVsbG8="}}', "string").item() == b"hello"
    # A plain string is text, whatever it looks like.
    assert read('{"instances": ["aGVsbG8="]}', "string").tolist() == [b"aGVsbG8="]
    for text in ("a", "aGVsbG8=x", "aGVs_G8=", "ä"):
        assert "Unable to base64 decode" in refusal(json.dumps({"instances": [{"b64": text}]}), "string").message


def test_b64_must_be_the_only_key_and_a_string():
    assert "not formatted correctly for base64 data" in refusal('{"instances": [[{"b64": 1}]]}', "string").message
    assert "does not have named input: b64" in refusal('{"instances": [{"b64": 1}]}', "string").message


@pytest.mark.parametrize(
    ("dtype", "text", "expected"),
    [
        ("uint8", "[300, -1]", [44, 255]),
        ("int8", "[200]", [-56]),
        ("int16", "[65536]", [0]),
        ("int64", "[9223372036854775807]", [2**63 - 1]),
        ("uint64", "[18446744073709551615]", [2**64 - 1]),
        ("bool", "[true, false]", [True, False]),
        ("float", "[1, 16777217]", [1.0, 16777216.0]),
        ("float", "[1e39, 1e-60]", [np.inf, 0.0]),
        ("double", "[0.1]", [0.1]),
    ],
)
def test_numbers_by_type(dtype, text, expected):
    assert read(f'{{"instances": {text}}}', dtype).tolist() == expected


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int32", "1.0"),
        ("int32", "2147483648"),
        ("uint8", "2147483648"),
        ("int64", "9223372036854775808"),
        ("uint32", "-1"),
        ("uint64", "18446744073709551616"),
        ("bool", "1"),
        ("int32", "true"),
        ("float", "false"),
    ],
)
def test_numbers_of_another_type(dtype, value):
    assert f"is not of expected type: {dtype}" in refusal(f'{{"instances": [{value}]}}', dtype).message


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" * 400, "1" * 5000])
def test_numbers_too_big_for_a_double(number):
    assert "Number too big" in refusal(f'{{"instances": [{number}]}}').message


def test_types_that_json_cannot_hold():
    assert refusal('{"inputs": [1]}', "bfloat16").code == Code.UNIMPLEMENTED
    row = refusal('{"instances": [1]}', "bfloat16")
    assert (row.code, "UNIMPLEMENTED" in row.message) == (Code.INVALID_ARGUMENT, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"  \n", "The document is empty"),
        (b'{"a": 1', "Expecting ',' delimiter. at offset: 7"),
        (b'{"a": "\xff"}', "Invalid encoding in string. at offset: 7"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"instances": ' + b"[" * 65 + b"1" + b"]" * 65 + b"}", "unexpected level: 65 expected < 64"),
        (b'{"inputs": ' + b"[" * 300 + b"]" * 300 + b"}", "unexpected level"),
        (b"null", "Is not object"),
    ],
)
def test_texts_that_are_no_request(text, words):
    with pytest.raises(ServingError) as caught:
        read_tensors(parse_json(text), {"x": TensorSpec("float", None)})
    assert words in caught.value.message
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_a_byte_order_mark_is_passed_over():
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_a_lone_surrogate_is_no_text():
    assert "surrogate" in refusal('{"instances": ["\\ud800"]}', "string").message


def test_errors_quote_no_more_than_a_line():
    message = refusal(json.dumps({"instances": {"a": "x" * 10_000_000}})).message
    assert len(message) < 300
    assert "Expecting 'instances' to be an list/array" in message


def test_the_signature_is_the_default_one_unless_named():
    assert signature_name({}) == signature_name({"signature_name": ""}) == "serving_default"
    assert signature_name({"signature_name": "other"}) == "other"


def test_shapes_are_held_against_the_signature():
    spec = TensorSpec("float", (None, 16, 16, 1))
    check_shape("image", (0, 16, 16, 1), spec)
    check_shape("image", (3, 2), TensorSpec("float", None))
    for shape, shown in (((2, 8, 8, 1), "2,8,8,1"), ((16, 16), "16,16"), ((), "")):
        with pytest.raises(ServingError) as caught:
            check_shape("image", shape, spec)
        assert caught.value.message == (
            f"Shape of tensor image [{shown}] is not compatible with expected shape [?,16,16,1]."
        )


def test_routes():
    assert parse_route("POST", "/v1/models/m/labels/a%20b:predict") == ("predict", "m", None, "a b")
    assert parse_route("GET", "/v1/models/m/versions/007/metadata") == ("metadata", "m", 7, None)
    assert parse_route("GET", "/v1/models/m") == ("status", "m", None, None)


def test_gzip_stops_at_the_limit():
    bomb = gzip.compress(bytes(10_000_000))
    with pytest.raises(ServingError, match="unpacks to more than 1000 bytes"):
        unpack(bomb, 1000)
    with pytest.raises(ServingError, match="is announced as gzip and is not"):
        unpack(b"plain", 1000)
    with pytest.raises(ServingError, match="cut off"):
        unpack(bomb[:-10], 20_000_000)


def test_errors_are_json_whatever_they_quote():
    assert json.loads(write_error('a "quoted"\n\x00 word')) == {"error": 'a "quoted"\n\x00 word'}
