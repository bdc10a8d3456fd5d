"""Destinations on the command line."""

import io

import pytest

from puppetmaster.cli import destinations
from puppetmaster.cli.destinations import expand

NOTHING = io.StringIO("")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a"], ["a"]),
        (["a,b", "c"], ["a", "b", "c"]),
        (["b, a ,b", "a"], ["b", "a"]),
        (["00:0c:29:1c:e8:01"], ["00:0c:29:1c:e8:01"]),
        (["device-[0001-0003]"], ["device-0001", "device-0002", "device-0003"]),
        (["[8-11]"], ["8", "9", "10", "11"]),
        (["[08-11]"], ["08", "09", "10", "11"]),
        (["d[099-101]x"], ["d099x", "d100x", "d101x"]),
        (["[5-5]"], ["5"]),
        (["r[1-2]-d[01-02],x"], ["r1-d01", "r1-d02", "r2-d01", "r2-d02", "x"]),
        (["[1-3],[2-4]"], ["1", "2", "3", "4"]),
        (["gerät ö"], ["gerät ö"]),
    ],
)
def test_lists_and_ranges_expand_in_their_order_each_name_once(texts, expected):
    assert expand(texts, NOTHING) == expected


def test_a_file_has_a_destination_on_each_line(tmp_path):
    file = tmp_path / "devices.txt"
    file.write_bytes("\ufeffa\r\n\n# the second floor\n  b \nwith,comma[1-2]\na\n".encode())
    assert expand([f"@{file}", "c"], NOTHING) == ["a", "b", "with,comma[1-2]", "c"]


def test_a_dash_reads_stdin():
    assert expand(["x", "-"], io.StringIO("a\nb\n")) == ["x", "a", "b"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "can't be empty"),
        ("a,,b", "can't be empty"),
        ("a,", "can't be empty"),
        ("a/b", "can't contain '/'"),
        ("+", "can't contain"),
        ("#", "can't contain"),
        ("$SYS", "can't begin with"),
        ("a\nb", "can't contain"),
        ("a\udcff", "can't contain"),
        ("x" * 129, "at most 128"),
        ("[3-1]", "runs backwards"),
        ("a[1-x]", "bad range"),
        ("a[1]", "bad range"),
        ("a[1-2", "bad range"),
        ("a1-2]", "bad range"),
        ("a[]", "bad range"),
        ("a[-1-2]", "bad range"),
        ("a[1-2-3]", "bad range"),
        ("a[1-3,5]", "bad range"),
        ("[[1-2]]", "bad range"),
        ("[0-1000000]", "more than 1,000,000"),
        ("[1-999999999999]", "more than 1,000,000"),
        ("[1-9999999999999]", "bad range"),
        ("@", "can't read"),
        ("@/no/such/file", "can't read /no/such/file: No such file"),
        ("-", "names no destination"),
    ],
)
def test_what_can_not_be_a_destination_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        expand([text], io.StringIO("\n# nothing\n"))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="no UTF-8"):
        expand([f"@{tmp_path / 'binary'}"], NOTHING)


def test_ranges_that_multiply_are_stopped_in_time(monkeypatch):
    monkeypatch.setattr(destinations, "MAX_DESTINATIONS", 1000)
    with pytest.raises(ValueError, match="more than 1,000 destinations"):
        expand(["[1-900]-[1-900]-[1-900]"], NOTHING)
