"""The image in the confines that the pod of config/kubernetes sets."""

import time

from harness import ROOT, Connection
from image.conftest import docker
from image.test_container import readable
from manifests import CONTAINER, ENVIRONMENT, POD, PORTS, seconds

MOUNTS = [mount["mountPath"] for mount in CONTAINER["volumeMounts"]]


def options():
    """What docker run has for the security context, the resources, the volumes and the variables."""
    context, own = POD["spec"]["securityContext"], CONTAINER["securityContext"]
    limits = CONTAINER["resources"]["limits"]
    assert (context["runAsNonRoot"], context["seccompProfile"]["type"]) == (True, "RuntimeDefault")
    words = ["--user", f"{context['runAsUser']}:{context['runAsGroup']}"]
    words += ["--read-only"] if own["readOnlyRootFilesystem"] else []
    words += [word for name in own["capabilities"]["drop"] for word in ("--cap-drop", name)]
    words += ["--security-opt", "no-new-privileges"] if own["allowPrivilegeEscalation"] is False else []
    words += ["--cpus", limits["cpu"], "--memory", limits["memory"].removesuffix("i").lower()]
    words += [word for path in MOUNTS for word in ("--tmpfs", f"{path}:exec,mode=0777")]
    return words + [word for name, value in ENVIRONMENT.items() for word in ("--env", f"{name}={value}")]


def test_the_image_serves_in_the_confines_of_its_pod(image, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "root.py").write_text((ROOT / "sites/root.py").read_text())
    (site / "page.html").write_text((ROOT / "sites/page.html").read_text())
    assert set(PORTS.values()) == {8080, 9090}, "which are published here"
    with image.container(*options(), sites=readable(site)) as container:
        assert container.ready().get().status == 200
        assert container.get("/upload", method="POST", body=bytes(1_000_000)).status == 200, "a body on a disk"
        for name in ("startup", "readiness", "liveness"):
            probe = CONTAINER[f"{name}Probe"]
            assert PORTS[probe["httpGet"]["port"]] == 9090
            with Connection(container.admin) as connection:
                assert connection.request(probe["httpGet"]["path"]).status == 200
        assert f'"workers":{CONTAINER["resources"]["limits"]["cpu"]},' in container.log()
        began = time.monotonic()
        docker("stop", "--time", POD["spec"]["terminationGracePeriodSeconds"], container.name)
        assert container.state("ExitCode") == 0
        assert time.monotonic() - began > seconds(ENVIRONMENT["ATRIO_DRAIN_DELAY"])
