"""The ways out: how a request reaches its destination."""

from puppetmaster.channels.port import Channel, Post

__all__ = ["Channel", "Post"]
