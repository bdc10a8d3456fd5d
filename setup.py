"""Packaging: the version lives in ``puppetmaster/version.py``, the requirements in ``requirements.txt``."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def version() -> str:
    scope: dict = {}
    exec((HERE / "puppetmaster" / "version.py").read_text(encoding="utf-8"), scope)
    return scope["__version__"]


def requirements() -> list:
    lines = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


setup(
    name="puppetmaster",
    version=version(),
    description="Runs one command on thousands of devices over MQTT and knows at every moment how far it is",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["puppetmaster", "puppetmaster.*"]),
    package_data={"puppetmaster": ["py.typed", "bundle.json", "edges/http/page/*.*", "edges/http/page/views/*.*"]},
    python_requires=">=3.10",
    install_requires=requirements(),
    entry_points={"console_scripts": ["puppetmaster = puppetmaster.cli:main"]},
)
