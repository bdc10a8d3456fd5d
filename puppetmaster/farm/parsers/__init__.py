"""Parsers: each reads from the output of one kind of program how far it is."""

from puppetmaster.farm.parsers.blender_render import BlenderOutput
from puppetmaster.farm.parsers.port import MakeParser, Parser, Reading

__all__ = ["BlenderOutput", "MakeParser", "Parser", "Reading"]
