"""Services and names: pure, so they are tested with values."""

import dns.message
import dns.rcode
import dns.rdatatype
from kube.cluster.facts import PodFacts, Port
from kube.cluster.names import Zone, answer, zone
from kube.cluster.services import Endpoint, frontends, links
from kube.objects import Object

HTTP = Port("http", 8080)
PODS = [
    PodFacts(
        name="db-0",
        namespace="a",
        ip="10.244.0.10",
        labels={"app": "db"},
        ready=True,
        ports=(HTTP,),
        host_name="db-0",
        subdomain="db",
    ),
    PodFacts(name="db-1", namespace="a", ip="10.244.0.11", labels={"app": "db"}, ports=(HTTP,)),
    PodFacts(name="db-x", namespace="a", ip="10.244.0.12", labels={"app": "db"}, ready=True),
]


def service(name: str, **spec: object) -> Object:
    """Return a Service of the three pods in namespace a."""
    ports = [{"name": "web", "port": 80, "targetPort": "http"}]
    return {"metadata": {"name": name, "namespace": "a"}, "spec": {"selector": {"app": "db"}, "ports": ports, **spec}}


def ask(known: Zone, name: str, kind: str = "A") -> tuple[str, list[str]]:
    """Return the status and the records of an answer."""
    found = answer(dns.message.make_query(name, kind), known)
    return dns.rcode.to_text(found.rcode()), sorted(record.to_text() for each in found.answer for record in each)


def test_a_service_leads_to_ready_pods_that_have_the_port() -> None:
    """A pod that is not ready, or lacks the named port, is no endpoint; one that shall be published anyway is."""
    (only,) = frontends(service("db"), "10.96.0.20", PODS)
    (both,) = frontends(service("db", publishNotReadyAddresses=True), "10.96.0.20", PODS)
    (none,) = frontends(service("db", selector=None), "10.96.0.20", PODS)

    assert only.endpoints == (Endpoint("10.244.0.10", 8080),)
    assert [each.ip for each in both.endpoints] == ["10.244.0.10", "10.244.0.11"]
    assert none.endpoints == ()


def test_a_service_has_a_name() -> None:
    """It is an A record of its own address; of other types the name exists, but is empty."""
    known = zone([service("db")], {("a", "db"): "10.96.0.20"}, PODS)

    assert ask(known, "db.a.svc.cluster.local") == ("NOERROR", ["10.96.0.20"])
    assert ask(known, "DB.a.svc.cluster.local.") == ("NOERROR", ["10.96.0.20"])
    assert ask(known, "db.a.svc.cluster.local", "AAAA") == ("NOERROR", [])
    assert ask(known, "_web._tcp.db.a.svc.cluster.local", "SRV") == ("NOERROR", ["0 100 80 db.a.svc.cluster.local."])
    assert ask(known, "db.b.svc.cluster.local") == ("NXDOMAIN", [])
    assert ask(known, "example.com", "AAAA") == ("NXDOMAIN", [])


def test_a_headless_service_is_its_ready_pods() -> None:
    """Its name has their addresses, and a pod with a host name below it has one of its own."""
    known = zone([service("db", clusterIP="None")], {}, PODS)
    none = zone([service("db", clusterIP="None")], {}, [])

    assert ask(known, "db.a.svc.cluster.local") == ("NOERROR", ["10.244.0.10", "10.244.0.12"])
    assert ask(known, "db-0.db.a.svc.cluster.local") == ("NOERROR", ["10.244.0.10"])
    assert ask(known, "10-244-0-12.db.a.svc.cluster.local") == ("NOERROR", ["10.244.0.12"])
    assert ask(known, "db-1.db.a.svc.cluster.local") == ("NXDOMAIN", [])
    assert ask(known, "_web._tcp.db.a.svc.cluster.local", "SRV")[1][0].startswith("0 50 8080 ")
    assert ask(none, "db.a.svc.cluster.local") == ("NXDOMAIN", [])


def test_an_external_name_is_an_alias() -> None:
    """It answers with the other name, and with its addresses where the cluster knows them."""
    known = zone([service("db", type="ExternalName", externalName="db.example.com")], {}, PODS)
    known.addresses["db.example.com"] = ["203.0.113.7"]

    assert ask(known, "db.a.svc.cluster.local") == ("NOERROR", ["203.0.113.7", "db.example.com."])


def test_links_name_each_service() -> None:
    """Variables are as Kubernetes injects them; the API server's are there even where links are disabled."""
    services = {"rsketch-http": (service("rsketch-http"), "10.96.0.20")}
    found = links(services, api_server="10.96.0.1", enabled=True)
    without = links(services, api_server="10.96.0.1", enabled=False)

    assert found["RSKETCH_HTTP_PORT"] == "tcp://10.96.0.20:80"
    assert found["RSKETCH_HTTP_SERVICE_HOST"] == "10.96.0.20"
    assert found["RSKETCH_HTTP_SERVICE_PORT_WEB"] == "80"
    assert found["RSKETCH_HTTP_PORT_80_TCP_ADDR"] == "10.96.0.20"
    assert set(found) - set(without) == {name for name in found if name.startswith("RSKETCH_HTTP_")}
    assert without["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
