"""The compiler ``blender_render``: frames of a .blend file, in chunks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from puppetmaster.farm.compilers.port import MAX_CHUNKS, Chunk
from puppetmaster.job_document import parse

MAX_FRAME = 1_048_574
"""The last frame that Blender knows; the first one is as far below zero."""

_RANGE = re.compile(r"\s*(-?\d{1,7})\s*(?:(?:-|\.\.)\s*(-?\d{1,7})\s*)?")


def _whole(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("it has to be a whole number")
    return value


def _no_option(value: str) -> str:
    if value.startswith("-"):
        raise ValueError("it can't begin with a dash: Blender would take it for an option")
    return value


_Frame = Annotated[int, Field(ge=-MAX_FRAME, le=MAX_FRAME), BeforeValidator(_whole)]
_Path = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$"), AfterValidator(_no_option)]


class _Settings(BaseModel):
    # Numbers may be texts: clients that send forms make their settings of what is in their own forms.
    model_config = ConfigDict(extra="ignore")

    filepath: _Path = Field(validation_alias=AliasChoices("filepath", "file_path"))
    frame_start: _Frame | None = None
    frame_end: _Frame | None = None
    frames: str | None = Field(None, max_length=10_000)
    chunk_size: Annotated[int, Field(ge=1), BeforeValidator(_whole)] | None = None
    format: str = Field("", pattern=r"^[A-Z0-9_]{0,40}$")
    render_settings: _Path | None = None
    output_path: _Path | None = None
    blender: _Path = "blender"

    @model_validator(mode="after")
    def _some_frames(self) -> _Settings:
        if self.frames is None and (self.frame_start is None or self.frame_end is None):
            raise ValueError("give frame_start and frame_end, or frames")
        if self.frames is None and (self.frame_end or 0) < (self.frame_start or 0):
            raise ValueError("frame_end is before frame_start")
        return self


class BlenderRender:
    """Renders frames of a .blend file: ``chunk_size`` of them at a time, all at once where it is not given.

    The frames are ``frame_start`` to ``frame_end``, or ``frames`` as in ``1-20,33``. ``format`` and ``output_path`` go
    before what the file says; ``render_settings`` is a Python script that Blender runs before it renders.
    """

    parser = "blender_render"

    def compile(self, settings: Mapping[str, Any]) -> Sequence[Chunk]:
        """The chunks of a task."""
        wanted = parse(_Settings, dict(settings))
        chunks: list[Chunk] = []
        for some in _cut(_frames(wanted), wanted.chunk_size or 2 * MAX_FRAME + 1):
            if len(chunks) == MAX_CHUNKS:
                raise ValueError(f"these are more than {MAX_CHUNKS} chunks: give a larger chunk_size")
            chunks.append(
                Chunk(commands=[_command(wanted, some)], frame_start=some[0][0], frame_end=some[-1][-1])
            )
        return chunks


def _frames(wanted: _Settings) -> list[range]:
    """The frames in order, in as few ranges as there can be: one may have a million."""
    if wanted.frames is None:
        return [range(wanted.frame_start or 0, (wanted.frame_end or 0) + 1)]
    found: list[range] = []
    for some in sorted(map(_range, wanted.frames.split(",")), key=lambda frames: frames.start):
        if found and some.start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, some.stop))
        else:
            found.append(some)
    return found


def _cut(frames: list[range], size: int) -> Iterator[list[range]]:
    """So many frames at a time."""
    some: list[range] = []
    left = size
    for rest in frames:
        while rest:
            some.append(rest[:left])
            rest, left = rest[left:], left - len(some[-1])
            if not left:
                yield some
                some, left = [], size
    if some:
        yield some


def _range(part: str) -> range:
    found = _RANGE.fullmatch(part)
    if found is None:
        raise ValueError(f"frames: {part!r:.40} is neither a frame nor a range such as 1-20")
    first, last = int(found[1]), int(found[2] or found[1])
    if not -MAX_FRAME <= first <= last <= MAX_FRAME:
        raise ValueError(f"frames: {part!r:.40} is no range of frames, from -{MAX_FRAME} to {MAX_FRAME}")
    return range(first, last + 1)


def _command(wanted: _Settings, frames: list[range]) -> list[str]:
    # Blender does what stands on its command line in that order: what is to be rendered comes last.
    command = [wanted.blender, "--background", wanted.filepath]
    if wanted.render_settings:
        command += ["--python", wanted.render_settings]
    if wanted.output_path:
        command += ["--render-output", wanted.output_path]
    if wanted.format:
        command += ["--render-format", wanted.format]
    if len(frames) == 1:
        return [*command, "--frame-start", str(frames[0][0]), "--frame-end", str(frames[0][-1]), "--render-anim"]
    return [*command, "--render-frame", ",".join(map(_run, frames))]


def _run(frames: range) -> str:
    return str(frames[0]) if len(frames) == 1 else f"{frames[0]}..{frames[-1]}"
