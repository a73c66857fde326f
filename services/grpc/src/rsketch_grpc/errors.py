"""The errors of the gRPC service. Bad settings are the host's ConfigError; here is what a caller gets wrong."""

__all__ = ["InvalidArgumentError"]


class InvalidArgumentError(ValueError):
    """
    A field of a request is out of range; the caller is answered INVALID_ARGUMENT with this message.

    Args:
        field: The field, as the .proto file names it.
        accepts: What it accepts. Never the value that was given: it is somebody's data, and may be long.
    """

    def __init__(self, field: str, accepts: str) -> None:
        super().__init__(f"{field}: accepts {accepts}")
        self.field = field
