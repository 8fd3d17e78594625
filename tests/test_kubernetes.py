"""config/kubernetes: the cluster would take it, its parts fit together, and it says of Atrio what is true."""

import copy
import json
import re

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from harness import ROOT, Atrio, run
from manifests import CONTAINER, ENVIRONMENT, FOLDER, POD, PORTS, one, recommended, render, seconds
from observe.test_prometheus import promtool
from test_readme import SECTIONS

OLDEST = (1, 27)
VERSIONS = [v for v in all_versions() if tuple(map(int, v.split(".")))[:2] >= OLDEST]


def strict(**properties):
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": [*properties]}


STRING, STRINGS = {"type": "string", "minLength": 1}, {"type": "object", "additionalProperties": {"type": "string"}}
POD_MONITOR = strict(
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "PodMonitor"},
    metadata={"type": "object"},
    spec=strict(
        selector=strict(matchLabels=STRINGS),
        podMetricsEndpoints={
            "type": "array",
            "items": strict(port=STRING, path=STRING, interval={"type": "string", "pattern": r"^(\d+(ms|s|m|h))+$"}),
        },
    ),
)
"""Of the resource that the Prometheus operator defines, what is used here."""


@pytest.fixture(params=["alone", "recommended"])
def resources(request, tmp_path):
    return render(FOLDER) if request.param == "alone" else recommended(tmp_path)


def validate(resource, version):
    if resource["kind"] == "PodMonitor":
        jsonschema.validate(resource, POD_MONITOR)
    else:
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_since_the_oldest_knows_every_field(resources, version):
    assert f"Kubernetes {'.'.join(map(str, OLDEST))} or newer" in (FOLDER / "kustomization.yaml").read_text()
    for resource in resources:
        validate(resource, version)


def test_an_unknown_field_would_be_seen(tmp_path):
    for resource in recommended(tmp_path):
        validate(resource, VERSIONS[-1])
        resource["spec"]["novel"] = 1
        with pytest.raises(jsonschema.ValidationError):
            validate(resource, VERSIONS[-1])


def test_the_readme_shows_the_recommended_one(tmp_path):
    recommended(tmp_path)
    (_, shown) = next(block for block in SECTIONS["Kubernetes"])
    assert yaml.safe_load(shown) == yaml.safe_load((tmp_path / "kustomization.yaml").read_text())


def test_every_file_is_part_of_it():
    for folder in (FOLDER, FOLDER / "autoscaling"):
        listed = set(yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"])
        assert listed == {f.name for f in folder.glob("*.yaml")} - {"kustomization.yaml", "adapter.yaml"}


def test_the_recommended_one_has_everything_under_its_own_image_and_namespace(tmp_path):
    resources = recommended(tmp_path)
    assert sorted(resource["kind"] for resource in resources) == [
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PodMonitor",
        "Service",
    ]
    assert {resource["metadata"]["namespace"] for resource in resources} == {"shop"}
    deployment = one(resources, "Deployment")["spec"]
    assert deployment["template"]["spec"]["containers"][0]["image"] == "registry.example.com/shop:1"
    assert "replicas" not in deployment, "the autoscaler's"
    assert one(render(FOLDER), "Deployment")["spec"]["replicas"] > 1


def test_selectors_find_the_pods(tmp_path):
    resources = recommended(tmp_path)
    labels, spec = POD["metadata"]["labels"], {r["kind"]: r["spec"] for r in resources}
    spread = POD["spec"]["topologySpreadConstraints"]
    selectors = [
        spec["Service"]["selector"],
        spec["Deployment"]["selector"]["matchLabels"],
        spec["PodDisruptionBudget"]["selector"]["matchLabels"],
        spec["NetworkPolicy"]["podSelector"]["matchLabels"],
        spec["PodMonitor"]["selector"]["matchLabels"],
        *(constraint["labelSelector"]["matchLabels"] for constraint in spread),
    ]
    assert selectors == [labels] * len(selectors)
    assert {constraint["topologyKey"] for constraint in spread} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }


def test_ports_are_those_of_the_container(resources):
    policy = one(resources, "NetworkPolicy")["spec"]["ingress"]
    named = [port["port"] for rule in policy for port in rule["ports"]]
    named += [port["targetPort"] for port in one(resources, "Service")["spec"]["ports"]]
    named += [CONTAINER[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "readiness", "liveness")]
    named += [e["port"] for r in resources if r["kind"] == "PodMonitor" for e in r["spec"]["podMetricsEndpoints"]]
    assert set(named) == {*PORTS}
    assert [rule.get("from") is None for rule in policy if rule["ports"] == [{"port": "http"}]] == [True]


def test_the_autoscaler_asks_for_what_the_adapter_makes_of_these_pods(tmp_path):
    scaler = one(recommended(tmp_path), "HorizontalPodAutoscaler")["spec"]
    target = scaler["scaleTargetRef"]
    assert (target["apiVersion"], target["kind"], target["name"]) == ("apps/v1", "Deployment", "my-site")
    (rule,) = yaml.safe_load((FOLDER / "autoscaling/adapter.yaml").read_text())["rules"]
    (metric,) = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="shop"')
    groups = {"groups": [{"name": "adapter", "rules": [{"record": "ratio", "expr": query}]}]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups))
    series = {"atrio_threads_busy": "6x99", "atrio_threads": "8x99"}
    given = [
        {"series": f'{name}{{namespace="shop",pod="a"}}', "values": value.replace("x", "+0x")}
        for name, value in series.items()
    ]
    expected = {
        "expr": "ratio",
        "eval_time": "8m",
        "exp_samples": [{"labels": 'ratio{pod="a"}', "value": 0.75}],
    }
    case = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m"}
    case["tests"] = [{"interval": "15s", "input_series": given, "promql_expr_test": [expected]}]
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case))
    check = promtool("test", "rules", tmp_path / "case.yaml")
    assert check.returncode == 0, check


VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def violations(pod):
    """What Kubernetes' Pod Security Standard `restricted` forbids of a pod's specification."""
    found, above = [], pod.get("securityContext", {})
    found += [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    found += [f"volume {v['name']}" for v in pod.get("volumes", []) if not {*v} - {"name"} <= VOLUMES]
    found += ["sysctls"] if above.get("sysctls") else []
    for container in [*pod["containers"], *pod.get("initContainers", []), *pod.get("ephemeralContainers", [])]:
        own = container.get("securityContext", {})
        effective = {**above, **own}
        capabilities = own.get("capabilities", {})
        probes = [container.get(f"{kind}Probe", {}) for kind in ("startup", "readiness", "liveness")]
        handlers = [*probes, *container.get("lifecycle", {}).values()]
        found += [
            name
            for name, wrong in {
                "privileged": own.get("privileged"),
                "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
                "capabilities.drop": capabilities.get("drop") != ["ALL"],
                "capabilities.add": {*capabilities.get("add", [])} - {"NET_BIND_SERVICE"},
                "runAsNonRoot": effective.get("runAsNonRoot") is not True,
                "runAsUser": effective.get("runAsUser") == 0,
                "seccompProfile": effective.get("seccompProfile", {}).get("type")
                not in ("RuntimeDefault", "Localhost"),
                "procMount": own.get("procMount", "Default") != "Default",
                "hostProcess": effective.get("windowsOptions", {}).get("hostProcess"),
                "hostPort": any(port.get("hostPort") for port in container.get("ports", [])),
                "host of a handler": any(
                    "host" in action for h in handlers for action in h.values() if type(action) is dict
                ),
            }.items()
            if wrong
        ]
    return found


def test_the_pod_is_one_that_the_restricted_standard_admits():
    assert violations(POD["spec"]) == []


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("hostNetwork", True, "hostNetwork"),
        ("volumes.0.hostPath", {"path": "/"}, "volume tmp"),
        ("securityContext.runAsNonRoot", False, "runAsNonRoot"),
        ("securityContext.seccompProfile.type", "Unconfined", "seccompProfile"),
        ("containers.0.securityContext.runAsUser", 0, "runAsUser"),
        ("containers.0.securityContext.privileged", True, "privileged"),
        ("containers.0.securityContext.allowPrivilegeEscalation", True, "allowPrivilegeEscalation"),
        ("containers.0.securityContext.capabilities.drop", [], "capabilities.drop"),
        ("containers.0.securityContext.capabilities.add", ["NET_ADMIN"], "capabilities.add"),
        ("containers.0.ports.0.hostPort", 80, "hostPort"),
        ("containers.0.livenessProbe.httpGet.host", "other", "host of a handler"),
    ],
)
def test_what_the_standard_forbids_would_be_seen(path, value, name):
    pod = copy.deepcopy(POD["spec"])
    *above, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = pod
    for step in above:
        place = place[step]
    place[last] = value
    assert violations(pod) == [name]


def test_the_container_is_locked_further_than_that():
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True
    assert POD["spec"]["automountServiceAccountToken"] is False
    assert POD["spec"]["securityContext"]["runAsUser"] > 0
    mounts, volumes = CONTAINER["volumeMounts"], POD["spec"]["volumes"]
    assert {mount["name"] for mount in mounts} == {volume["name"] for volume in volumes}
    assert all("sizeLimit" in volume["emptyDir"] for volume in volumes)


def test_its_variables_are_settings():
    shown = run("config", "--format", "json", **ENVIRONMENT)
    assert shown.returncode == 0, shown
    effective = json.loads(shown.stdout)
    for name, value in ENVIRONMENT.items():
        assert effective[name.removeprefix("ATRIO_").lower()] == {"value": value, "origin": name}


def test_atrio_ends_by_itself_before_it_is_killed():
    delay, drain = seconds(ENVIRONMENT["ATRIO_DRAIN_DELAY"]), seconds(ENVIRONMENT["ATRIO_DRAIN_TIMEOUT"])
    source = (ROOT / "src/supervisor/mod.rs").read_text() + (ROOT / "src/supervisor/stop.rs").read_text()
    beyond = sum(
        int(re.search(rf"const {name}: .*from_secs\((\d+)\)", source)[1]) for name in ("FAREWELL", "HANDSHAKES")
    )
    assert POD["spec"]["terminationGracePeriodSeconds"] > delay + drain + beyond
    readiness = CONTAINER["readinessProbe"]
    assert delay > 5 + readiness["periodSeconds"], "load balancers hear of it meanwhile"


def test_the_probes_are_answered():
    with Atrio(ROOT / "sites", **ENVIRONMENT | {"ATRIO_DRAIN_DELAY": "0s"}) as server:
        for probe in ("startup", "readiness", "liveness"):
            assert server.admin(CONTAINER[f"{probe}Probe"]["httpGet"]["path"]).status == 200
