"""Compilers make chunks, parsers read output, and whoever brings a broken one along harms nobody else."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puppetmaster.errors import InvalidDocument
from puppetmaster.farm.compilers import BlenderRender, Chunk, Shell
from puppetmaster.farm.parsers import BlenderOutput, Reading
from puppetmaster.farm.plugins import PluginFailed, Plugins

LINE = (
    "Fra:12 Mem:8.32M (0.00M, Peak 9.10M) | Time:00:01.23 | Remaining:00:10.50 | Mem:0.00M, Peak:0.00M | "
    "Scene, RenderLayer | Rendered 3/64 Tiles\n"
)


def commands(chunks: Any) -> list[list[list[str]]]:
    return [[list(command) for command in chunk.commands] for chunk in chunks]


# shell


def test_a_text_goes_to_a_shell_and_a_list_is_a_program() -> None:
    assert commands(Shell().compile({"command": "a | b"})) == [[["/bin/sh", "-c", "a | b"]]]
    assert commands(Shell().compile({"command": ["a", "b c", ""]})) == [[["a", "b c", ""]]]


def test_commands_are_one_chunk_or_one_each() -> None:
    several = {"commands": ["a", ["b"]]}
    assert commands(Shell().compile(several)) == [[["/bin/sh", "-c", "a"], ["b"]]]
    assert commands(Shell().compile({**several, "parallel": True})) == [[["/bin/sh", "-c", "a"]], [["b"]]]


@pytest.mark.parametrize(
    "settings",
    [{}, {"command": ""}, {"command": []}, {"command": "a", "commands": ["b"]}, {"commands": []}, {"command": ["a\0"]},
     {"command": [1]}, {"commands": "a"}, {"command": None}],
)  # fmt: skip
def test_settings_that_are_no_commands_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidDocument):
        Shell().compile(settings)


# blender_render


def blender(**settings: Any) -> list[Chunk]:
    return list(BlenderRender().compile({"filepath": "/a.blend", **settings}))


def test_frames_are_cut_into_chunks() -> None:
    chunks = blender(frame_start=1, frame_end=10, chunk_size=4)
    assert [(chunk.frame_start, chunk.frame_end) for chunk in chunks] == [(1, 4), (5, 8), (9, 10)]
    ends = ["--frame-start", "5", "--frame-end", "8", "--render-anim"]
    assert list(chunks[1].commands) == [["blender", "--background", "/a.blend", *ends]]


def test_all_settings_get_to_their_place_on_the_command_line() -> None:
    chunks = blender(
        frame_start="3", frame_end="3", format="PNG", render_settings="/hd.py", output_path="/out/####", blender="/b"
    )
    assert commands(chunks) == [
        [["/b", "--background", "/a.blend", "--python", "/hd.py", "--render-output", "/out/####",
          "--render-format", "PNG", "--frame-start", "3", "--frame-end", "3", "--render-anim"]]
    ]  # fmt: skip


def test_frames_may_have_gaps() -> None:
    chunks = blender(frames="1-3, 7, 5..6,-2", chunk_size=5)
    assert [chunk.commands[0][-2:] for chunk in chunks] == [["--render-frame", "-2,1..3,5"], ["7", "--render-anim"]]
    assert [(chunk.frame_start, chunk.frame_end) for chunk in chunks] == [(-2, 5), (6, 7)]


@given(st.sets(st.integers(-300, 300), min_size=1, max_size=60), st.integers(1, 70))
def test_every_frame_is_in_one_chunk(frames: set[int], size: int) -> None:
    chunks = blender(frames=",".join(map(str, frames)), chunk_size=size)
    found: list[int] = []
    for chunk in chunks:
        command = chunk.commands[0]
        if "--render-frame" in command:
            for part in command[-1].split(","):
                first, _, last = part.partition("..")
                found += range(int(first), int(last or first) + 1)
        else:
            found += range(int(command[-4]), int(command[-2]) + 1)
    assert found == sorted(frames)


@pytest.mark.parametrize(
    "settings",
    [{}, {"frame_start": 1}, {"frame_start": 5, "frame_end": 1}, {"frames": ""}, {"frames": "1-"}, {"frames": "3-1"},
     {"frames": "1", "chunk_size": 0}, {"frames": "1", "format": "png; rm"}, {"frames": "1", "filepath": "--python"},
     {"frames": "1", "filepath": ""}, {"frames": "1", "filepath": 3}, {"frame_start": True, "frame_end": 2},
     {"frame_start": 1, "frame_end": 10**9}, {"frame_start": 1, "frame_end": 20_000, "chunk_size": 1}],
)  # fmt: skip
def test_settings_that_blender_could_not_do_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises((InvalidDocument, ValueError)):
        blender(**settings)


# Blender's output


def test_the_frame_the_remaining_time_and_the_saved_files_are_read() -> None:
    output = BlenderOutput(11, 20)
    assert output.feed(LINE) == Reading(
        progress=10, frame_current=12, remaining=10.5, files=(), activity="Rendered 3/64 Tiles"
    )
    reading = output.feed("Saved: '/tmp/0012.png'\nSaved: /tmp/older.png Time: 00:01.2\n")
    assert reading.files == ("/tmp/0012.png", "/tmp/older.png")
    assert output.feed("Fra:13 Mem:1 | Remaining:01:02:03.25 | Scene\n").remaining == 3723.25
    assert output.feed("Fra:20 Mem:1 | x\nSaved: 'a'\n").progress == 90


def test_the_last_frame_saved_is_all_of_it() -> None:
    output = BlenderOutput(1, 2)
    for frame in (1, 2):
        reading = output.feed(f"Fra:{frame} Mem:1 | x\nSaved: '/{frame}.png'\n")
    assert reading.progress == 100


LINES = st.sampled_from([LINE, "Saved: '/tmp/1.png'\n", "noise\r", "Fra:\n", "Fra:x\n"])


@given(st.lists(LINES, max_size=8), st.data())
def test_it_does_not_matter_where_the_output_is_cut(lines: list[str], data: st.DataObject) -> None:
    text = "".join(lines) + "\n"
    whole, cut = BlenderOutput(1, 20), BlenderOutput(1, 20)
    expected, rest, reading = whole.feed(text), text, None
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        reading, rest = cut.feed(rest[:size]), rest[size:]
    assert reading == expected


@given(st.text(max_size=300))
def test_no_output_is_too_strange(text: str) -> None:
    BlenderOutput(0, 0).feed(text + "\n")


def test_lines_that_never_end_and_lists_that_go_on_are_bounded() -> None:
    output = BlenderOutput(1, 1000)
    for _ in range(100):
        output.feed("x" * 100_000)
    for number in range(1000):
        reading = output.feed(f"\nSaved: '/{number}'\n")
    assert len(reading.files) == 100
    assert reading.files[-1] == "/999"


# Plug-ins


class Broken:
    parser = ""

    def compile(self, settings: Any) -> Any:
        how = settings["how"]
        if how == "raise":
            raise RuntimeError("no")
        if how == "exit":
            sys.exit(3)
        if how == "value":
            raise ValueError("how is wrong")
        return {"list": ["a"], "none": None, "empty": []}[how]


def compile_with(plugins: Plugins, name: str, settings: dict[str, Any]) -> Any:
    return asyncio.run(plugins.compile(name, settings))


@pytest.mark.parametrize(
    ("how", "error"),
    [("raise", PluginFailed), ("exit", PluginFailed), ("list", PluginFailed), ("value", InvalidDocument),
     ("none", InvalidDocument), ("empty", InvalidDocument)],
)  # fmt: skip
def test_a_compiler_that_fails_is_named(how: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        compile_with(Plugins({"broken": Broken}), "broken", {"how": how})


def test_a_missing_setting_of_a_compiler_is_a_fault_of_the_settings() -> None:
    with pytest.raises(InvalidDocument) as raised:
        compile_with(Plugins({"broken": Broken}), "broken", {})
    assert [(fault.path, fault.message) for fault in raised.value.faults] == [("settings", "'how' is missing")]


def test_ours_can_not_be_replaced() -> None:
    assert compile_with(Plugins({"shell": Broken}), "shell", {"command": "a"})[1][0].commands[0][0] == "/bin/sh"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that brings a compiler and a parser along, and two that can't be loaded."""
    (tmp_path / "nuke_farm.py").write_text(
        "from puppetmaster.farm.compilers import Chunk\n"
        "from puppetmaster.farm.parsers import Reading\n"
        "class Nuke:\n"
        "    parser = 'nuke'\n"
        "    def compile(self, settings):\n"
        "        return [Chunk(commands=[['nuke', settings['script']]])]\n"
        "class Output:\n"
        "    def __init__(self, frame_start, frame_end):\n"
        "        pass\n"
        "    def feed(self, text):\n"
        "        return Reading(progress=len(text))\n"
    )
    (tmp_path / "nuke_broken.py").write_text("raise SystemExit('no licence')\n")
    info = tmp_path / "nuke_farm-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nuke-farm\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[puppetmaster.compilers]\nnuke = nuke_farm:Nuke\nbroken = nuke_broken:X\ngone = nuke_gone:X\n"
        "[puppetmaster.parsers]\nnuke = nuke_farm:Output\nbroken = nuke_broken:X\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("installed")
def test_compilers_and_parsers_are_found_by_entry_point() -> None:
    plugins = Plugins()
    assert plugins.compilers == ["blender_render", "broken", "gone", "nuke", "shell"]
    assert plugins.parsers == ["blender_render", "broken", "nuke"]
    parser, chunks = compile_with(plugins, "nuke", {"script": "a.nk"})
    assert (parser, commands(chunks)) == ("nuke", [[["nuke", "a.nk"]]])
    for name in ("broken", "gone"):
        with pytest.raises(PluginFailed):
            compile_with(plugins, name, {})
    made = plugins.parser("nuke", 1, 2)
    assert made is not None
    assert asyncio.run(plugins.feed(made, "abc")) == Reading(progress=3)
    assert plugins.parser("broken", 1, 2) is None
    assert plugins.parser("unknown", 1, 2) is None


def test_a_parser_that_fails_reads_nothing() -> None:
    class Odd:
        def __init__(self, frame_start: int, frame_end: int) -> None: ...

        def feed(self, text: str) -> Any:
            return {"progress": 3} if text == "dict" else 1 / 0

    plugins = Plugins(parsers={"odd": Odd})
    parser = plugins.parser("odd", 0, 0)
    assert parser is not None
    assert asyncio.run(plugins.feed(parser, "x")) is None
    assert asyncio.run(plugins.feed(parser, "dict")) is None


@pytest.mark.parametrize(
    "made",
    [{"commands": []}, {"commands": [[]]}, {"commands": ["ab"]}, {"commands": [["a", 1]]}, {"commands": [[""]]},
     {"commands": [["a\0"]]}, {"commands": [["a"]], "frame_start": 1.5}, {"commands": [["a"]], "frame_end": 1 << 60}],
)  # fmt: skip
def test_a_chunk_is_made_of_commands(made: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"chunk|command|frame|program"):
        Chunk(**made)


def test_frames_that_lie_in_each_other_are_rendered_once() -> None:
    settings = {"filepath": "a", "frames": "7,1-3,2-5,6, 20-21 ,20,-2"}
    (chunk,) = BlenderRender().compile(settings)
    assert chunk.commands[0][-2:] == ["--render-frame", "-2,1..7,20..21"]
    assert (chunk.frame_start, chunk.frame_end) == (-2, 21)
    chunks = BlenderRender().compile({**settings, "chunk_size": 4})
    assert [(chunk.frame_start, chunk.frame_end) for chunk in chunks] == [(-2, 3), (4, 7), (20, 21)]
