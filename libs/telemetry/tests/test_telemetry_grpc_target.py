"""What gRPC's targets and peers mean."""

import pytest
from rsketch_telemetry._grpc_target import peer_of, target_endpoint


@pytest.mark.parametrize(
    ("target", "endpoint"),
    [
        ("localhost:50051", ("localhost", 50051)),
        ("my_service:50051", ("my_service", 50051)),
        ("[::1]:50051", ("::1", 50051)),
        ("10.1.2.3:50051", ("10.1.2.3", 50051)),
        ("dns://1.2.3.4/grpc.io:50051", ("grpc.io", 50051)),
        ("dns:///h:7", ("h", 7)),
        ("dns:h:7", ("h", 7)),
        ("dns:///%5B2001:db8::1%5D:7", ("2001:db8::1", 7)),
        ("ipv4:1.2.3.4:50", ("1.2.3.4", 50)),
        ("ipv4:///1.2.3.4:50", ("1.2.3.4", 50)),
        ("ipv6:[::1]:50", ("::1", 50)),
        ("ipv6:%5B::1%5D:50", ("::1", 50)),
        ("unix:///x.sock", ("/x.sock", None)),
        ("unix:/run/x.sock", ("/run/x.sock", None)),
        ("unix:x.sock", ("x.sock", None)),
        ("unix-abstract:x", ("x", None)),
    ],
)
def test_target_names_one_endpoint(target: str, endpoint: tuple[str | None, int | None]) -> None:
    """The endpoint is what stands in the target, without scheme, authority, brackets and escapes."""
    assert target_endpoint(target) == endpoint


@pytest.mark.parametrize("target", ["grpc.io", "dns:///grpc.io", "dns://8.8.8.8/grpc.io"])
def test_name_without_port_has_the_port_that_grpc_dials(target: str) -> None:
    """A name without a port is dialled at 443, so that is its port."""
    assert target_endpoint(target) == ("grpc.io", 443)


@pytest.mark.parametrize(
    "target", ["ipv4:1.2.3.4:50,1.2.3.5:51", "xds:///shop", "zk://keeper:2181/shop", "vsock:2:80", "a b:1", ""]
)
def test_target_without_one_endpoint_is_its_own_address(target: str) -> None:
    """Several addresses, a control plane's name and what is no target at all are kept whole, without a port."""
    assert target_endpoint(target) == (target, None)


@pytest.mark.parametrize(
    ("peer", "endpoint"),
    [
        ("ipv4:127.0.0.1:123", ("127.0.0.1", 123)),
        ("ipv6:%5B::1%5D:123", ("::1", 123)),
        ("ipv6:[::1]:123", ("::1", 123)),
        ("unix:", (None, None)),
        ("unix:/run/x.sock", ("/run/x.sock", None)),
        ("unknown", (None, None)),
        ("", (None, None)),
        ("ipv4:nonsense:123456", (None, None)),
    ],
)
def test_peer_is_address_and_port(peer: str, endpoint: tuple[str | None, int | None]) -> None:
    """A peer is taken apart; one without an address yields none."""
    found = peer_of(peer)

    assert (found.address, found.port) == endpoint
