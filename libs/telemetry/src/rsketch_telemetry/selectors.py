"""
Chooses this distro: `opentelemetry-instrument` imports this module before it starts the program.

Upstream's launcher takes the first distro and configurator that the file system happens to list, and without a word
none where the one that is named is not installed. These two selectors are the only values that are ever written into
the environment: they mean the same to every child process.
"""

import logging
import os

from rsketch_telemetry import environment

__all__: list[str] = []

_log = logging.getLogger("rsketch_telemetry")

for _selector in ("OTEL_PYTHON_DISTRO", "OTEL_PYTHON_CONFIGURATOR"):
    _sane, _complaints = environment.checked({_selector: os.environ.get(_selector, "")})  # noqa: TID251 - see above
    for _complaint in _complaints:
        _log.warning("telemetry: %s", _complaint)
    os.environ[_selector] = _sane.get(_selector, "rsketch")  # noqa: TID251 - what this module is for
