"""All groups of calls."""

from typing import Final

from .http_groups import HTTP
from .rpc_groups import RPC

__all__ = ["GROUPS"]

GROUPS: Final = (*HTTP, *RPC)
