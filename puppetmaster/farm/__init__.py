"""A render farm: tasks that compilers cut into chunks, and workers that ask for them."""

from puppetmaster.farm.farm import PATIENCE, Farm
from puppetmaster.farm.files import Files
from puppetmaster.farm.plugins import Plugins
from puppetmaster.farm.tasks import Tasks
from puppetmaster.farm.work import FARM_DESTINATION
from puppetmaster.farm.workers import Worker

__all__ = ["FARM_DESTINATION", "PATIENCE", "Farm", "Files", "Plugins", "Tasks", "Worker"]
