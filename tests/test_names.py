"""Names of files as text: every one can be shown, and different ones stay different."""

import io
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descargan_tf.names import OWN_BYTES, name_some, normal_form, one_line, shown

NOT_UTF8 = os.fsdecode(b"M\xfc.png")


def test_what_is_text_is_shown_as_it_is():
    for name in ("a.png", "Größe é.png", 'a, "b" <i>|.png', "back\\slash.png", "日本語.npy"):
        assert shown(name) == name


def test_what_is_no_text_is_shown_as_printf_takes_it():
    assert shown(NOT_UTF8) == r"M\xfc.png"
    assert shown("a\nb\t.png") == r"a\x0ab\x09.png"
    assert shown(os.fsdecode(b"\\M\xfc")) == r"\\M\xfc"
    assert shown(r"M\xfc.png") == r"M\\xfc.png"  # a name that only looks like it
    shown(NOT_UTF8).encode()


@given(st.lists(st.binary(min_size=1, max_size=6) | st.sampled_from([b"\\xfc", b"\\\\xfc", b"\xfc", b"\\\xfc"])))
def test_different_names_stay_different(names):
    names = {os.fsdecode(name) for name in names}
    assert len({shown(name) for name in names}) == len(names)


def test_one_line_keeps_all_but_what_breaks_it():
    assert one_line("a\nb\x1b[31mc é") == r"a\x0ab\x1b[31mc é"


def test_forms_of_unicode_are_one():
    composed, taken_apart = (unicodedata.normalize(form, "Größe é") for form in ("NFC", "NFD"))
    assert composed != taken_apart
    assert normal_form(composed) == normal_form(taken_apart)


def test_many_names_are_counted():
    assert name_some("abc") == "a, b, c"
    assert name_some("abcdefg", 3) == "a, b, c and 4 more"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", "M\xfc".encode("latin-1") + "− é".encode()), ("ascii", b"M\xfc\\u2212 \\xe9")],
)
def test_streams_print_a_names_own_bytes(encoding, expected):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=OWN_BYTES)
    print(os.fsdecode(b"M\xfc") + "− é", end="", file=out, flush=True)
    assert out.buffer.getvalue() == expected


def test_what_was_printed_can_be_read_back():
    text = io.TextIOWrapper(io.BytesIO(b"M\xfc"), encoding="utf-8", errors=OWN_BYTES)
    assert text.read() == os.fsdecode(b"M\xfc")
