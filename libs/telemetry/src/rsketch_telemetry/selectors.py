"""
Chooses this distro: `opentelemetry-instrument` imports this module before it starts the program.

Upstream's launcher takes the first distro and configurator that the file system happens to list. These two selectors
are the only values that are ever written into the environment: they mean the same to every child process.
"""

import os

__all__: list[str] = []

for _selector in ("OTEL_PYTHON_DISTRO", "OTEL_PYTHON_CONFIGURATOR"):
    os.environ.setdefault(_selector, "rsketch")  # noqa: TID251 - what this module is for
