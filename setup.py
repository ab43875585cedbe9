"""The one thing that pyproject.toml cannot say yet: a compiled kernel, left out where there is no compiler."""

from setuptools import Extension, setup

setup(ext_modules=[Extension("ps._kernel", ["ps/_kernel.c"], extra_compile_args=["-O3"], optional=True)])
