"""Compilers: each makes chunks of work out of the settings of one type of task."""

from puppetmaster.farm.compilers.blender_render import BlenderRender
from puppetmaster.farm.compilers.port import MAX_CHUNKS, Chunk, Compiler
from puppetmaster.farm.compilers.shell import Shell

__all__ = ["MAX_CHUNKS", "BlenderRender", "Chunk", "Compiler", "Shell"]
