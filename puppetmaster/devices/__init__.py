"""The registry of devices: who there is, what they say of themselves, and what callers call them."""

from puppetmaster.devices.labelling import DeviceUpdate
from puppetmaster.devices.registry import Devices

__all__ = ["DeviceUpdate", "Devices"]
