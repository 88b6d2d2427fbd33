"""The packages: those below jaxpose/, and the configs beside it as `jaxpose.configs`. All else is in setup.cfg."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["jaxpose*"]), "jaxpose.configs"],
    package_dir={"jaxpose.configs": "configs"},
)
