"""deploy/kubernetes: each site that can be composed of it is built as `kubectl apply -k` does, and judged by the
published schemas and by our own rules. No cluster takes part."""

from __future__ import annotations

import http.server
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from ruamel.yaml import YAML

from search.study.study_file import load_study
from tests.support.cluster_scripts import among, as_read
from tests.support.house import HOUSE

Manifest: TypeAlias = dict[str, Any]

#: Which components beside the base, of those in site/kustomization.yaml.
SITES = ((), ("postgres",), ("gpu",), ("s3",), ("postgres", "gpu", "s3"))

#: The oldest version that has all that is used, and the newest whose schema the validator has.
VERSIONS = ("1.33", "1.37")

#: The files that a site writes, and that are no part of what ships.
SECRETS = {
    "database.env": "OFFKEY_STORAGE=postgresql://offkey@host/offkey\nPGPASSWORD=of-the-database\n",
    "dashboard-password": "of-the-dashboard\n",
    "s3.env": "OFFKEY_ARTIFACTS=s3://bucket/offkey\nAWS_SECRET_ACCESS_KEY=of-the-bucket\n",
}

#: Seconds in which a worker leaves when it is asked to (README).
DRAIN_SECONDS = 10

of_each_site = pytest.mark.parametrize("site", SITES, ids=lambda site: "+".join(site) or "base")


@cache
def built(folder: Path, site: tuple[str, ...]) -> str:
    """A site as it is applied, in the copied folder."""
    kustomization = (HOUSE / "deploy/kubernetes/site/kustomization.yaml").read_text()
    for name in ("postgres", "gpu", "s3"):
        kept = r"  \1" if name in site else ""
        kustomization = re.sub(rf"^  (?:# )?(- \.\./{name}\b.*)$", kept, kustomization, flags=re.MULTILINE)
    if "s3" in site:  # what stands there in comments
        kustomization = re.sub(r"^  # (- name: offkey-s3|  .*)$", r"  \1", kustomization, flags=re.MULTILINE)
    (folder / "site/kustomization.yaml").write_text(kustomization)
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run([kubectl, "kustomize", folder / "site"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")  # a warning tells of what a next version drops
    return done.stdout


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], list[Manifest]]:
    """Makes the documents of a site, with secrets as deploy/README.md has them written."""
    copied = tmp_path_factory.mktemp("deploy")
    shutil.copytree(HOUSE / "deploy/kubernetes", copied, dirs_exist_ok=True)
    for name, content in SECRETS.items():
        (copied / "site" / name).write_text(content)
    return lambda site: list(YAML(typ="safe").load_all(built(copied, site)))


@pytest.fixture
def documents(build: Callable[..., list[Manifest]], site: tuple[str, ...]) -> list[Manifest]:
    return build(site)


@pytest.fixture
def worker(build: Callable[..., list[Manifest]]) -> Manifest:
    (container,) = pods(build(()))["offkey-workers"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def one(documents: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def pods(documents: list[Manifest]) -> dict[str, Manifest]:
    """The pod templates, by the name of what makes the pods."""
    return {
        each["metadata"]["name"]: each["spec"]["template"] for each in documents if "template" in each.get("spec", {})
    }


def containers(documents: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Each container with its pod's specification."""
    for pod in pods(documents).values():
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            yield pod["spec"], container


@cache
def fits(document: str, version: str) -> bool:
    """Whether a document (JSON) fits the schema; raises ValidationError. Most are the same in several sites."""
    return bool(kubernetes_validate.validate(json.loads(document), version, strict=True) == version)


@of_each_site
@pytest.mark.parametrize("version", VERSIONS)
def test_every_document_fits_the_published_schema_which_refuses_unknown_fields(
    documents: list[Manifest], version: str
) -> None:
    assert all(fits(json.dumps(document), version) for document in documents)


@pytest.mark.parametrize(
    ("field", "value"),
    [("terminationGracePeriod", 30), ("terminationGracePeriodSeconds", "30s"), ("containers", [{"image": "offkey"}])],
)
def test_a_pod_that_breaks_the_schema_is_refused(
    build: Callable[..., list[Manifest]], field: str, value: object
) -> None:
    job = one(build(()), "Job", "offkey-workers")
    job["spec"]["template"]["spec"][field] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


@of_each_site
def test_every_container_runs_without_any_right(documents: list[Manifest]) -> None:
    for pod, container in containers(documents):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@of_each_site
def test_every_container_says_what_it_needs(documents: list[Manifest]) -> None:
    for _, container in containers(documents):
        resources = container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys()
        assert "memory" in resources["limits"]
        assert "cpu" not in resources["limits"]  # work that is throttled holds its trial longer, for nobody's good


@of_each_site
def test_whatever_a_pod_names_is_in_the_site(documents: list[Manifest]) -> None:
    there = {(each["kind"], each["metadata"]["name"]) for each in documents}
    for pod, container in containers(documents):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        volumes |= {claim["metadata"]["name"]: {} for each in documents for claim in claims_of(each, pod)}
        assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes.keys()
        named = {("Secret", source["secretRef"]["name"]) for source in container.get("envFrom", ())}
        for variable in container.get("env", ()):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                named.add(("Secret", variable["valueFrom"]["secretKeyRef"]["name"]))
        for volume in volumes.values():
            if "secret" in volume:
                named.add(("Secret", volume["secret"]["secretName"]))
            if "configMap" in volume:
                named.add(("ConfigMap", volume["configMap"]["name"]))
            if "persistentVolumeClaim" in volume:
                named.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        assert named <= there


def claims_of(document: Manifest, pod: Manifest) -> list[Manifest]:
    """The volumes that a StatefulSet makes for each of its pods."""
    spec = document.get("spec", {})
    return spec.get("volumeClaimTemplates", []) if spec.get("template", {}).get("spec") == pod else []


@of_each_site
def test_selectors_find_their_own_pods_and_no_others(documents: list[Manifest]) -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(documents).items()}
    for document in documents:
        spec, name = document.get("spec", {}), document["metadata"]["name"]
        selector = spec.get("podSelector") or spec.get("selector")
        if selector is not None:
            wanted = selector.get("matchLabels", selector).items()
            assert [name] == [found for found, has in labels.items() if wanted <= has.items()]


def test_every_pod_of_the_house_reaches_the_database(build: Callable[..., list[Manifest]]) -> None:
    documents = build(("postgres",))
    (rule,) = one(documents, "NetworkPolicy", "offkey-postgres")["spec"]["ingress"]
    allowed = rule["from"][0]["podSelector"]["matchLabels"].items()
    for pod in pods(documents).values():
        assert allowed <= pod["metadata"]["labels"].items()


@of_each_site
def test_every_pod_has_more_time_to_leave_than_a_drain_takes(documents: list[Manifest]) -> None:
    for pod in pods(documents).values():
        assert pod["spec"]["terminationGracePeriodSeconds"] >= 2 * DRAIN_SECONDS


@of_each_site
def test_every_secret_is_the_sites_own(documents: list[Manifest]) -> None:
    text = json.dumps([each for each in documents if each["kind"] != "Secret"])
    for secret in ("of-the-database", "of-the-dashboard", "of-the-bucket", "postgresql://"):
        assert secret not in text
    for _, container in containers(documents):
        for variable in container.get("env", ()):
            assert "value" not in variable or not variable["name"].endswith(("PASSWORD", "KEY", "TOKEN", "STORAGE"))


def test_a_worker_may_write_where_the_image_has_its_cache_and_checkpoints(worker: Manifest) -> None:
    image = (HOUSE / "Dockerfile").read_text()
    writable = {mount["mountPath"] for mount in worker["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/var/lib/offkey/cache", "/var/lib/offkey/artifacts", "/tmp"}
    for variable in ("OFFKEY_CACHE=/var/lib/offkey/cache", "OFFKEY_ARTIFACTS=/var/lib/offkey/artifacts"):
        assert variable in image
    assert worker["workingDir"] == "/tmp"  # where logs go
    assert {variable["name"]: variable.get("value") for variable in worker["env"]}["HOME"] == "/tmp"


def test_with_a_bucket_no_pod_waits_for_a_shared_volume_of_checkpoints(build: Callable[..., list[Manifest]]) -> None:
    documents = build(("s3",))
    claims = [each["metadata"]["name"] for each in documents if each["kind"] == "PersistentVolumeClaim"]
    assert claims == ["offkey-corpus"]
    for _, container in containers(documents):
        if container["name"] in ("worker", "dashboard"):
            assert {"secretRef": {"name": "offkey-s3"}} in container["envFrom"]


def test_with_gpus_each_worker_has_one_and_nothing_else_changes(build: Callable[..., list[Manifest]]) -> None:
    with_gpus, without = build(("gpu",)), build(())
    spec = one(with_gpus, "Job", "offkey-workers")["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"].pop("nvidia.com/gpu") == 1
    assert spec.pop("tolerations") == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert with_gpus == without


def test_there_are_as_many_workers_as_the_job_wants_and_one_that_is_done_ends_it(
    build: Callable[..., list[Manifest]],
) -> None:
    spec = one(build(()), "Job", "offkey-workers")["spec"]
    assert (spec["completions"], spec["completionMode"]) == (spec["parallelism"], "Indexed")
    assert spec["successPolicy"] == {"rules": [{"succeededCount": 1}]}


def test_the_commands_are_offkeys(build: Callable[..., list[Manifest]], worker: Manifest) -> None:
    search = next(line for line in worker["args"][-1].splitlines() if line.startswith("offkey "))
    assert as_read(shlex.split(search.rstrip(" &")))["workers"] == "1"
    (dashboard,) = pods(build(()))["offkey-dashboard"]["spec"]["containers"]
    assert as_read(dashboard["args"])["port"] == dashboard["ports"][0]["containerPort"]


def test_the_study_of_the_site_is_one() -> None:
    study = load_study(str(HOUSE / "deploy/kubernetes/site/study.yaml"))
    assert study.first_recipe().corpus.root is None  # each pod has it where OFFKEY_DATA says


@pytest.mark.parametrize("code", [0, 1])
def test_a_worker_that_ends_by_itself_ends_its_pod_with_its_own_exit_code(
    worker: Manifest, tmp_path: Path, code: int
) -> None:
    ended = subprocess.run(worker["args"], env=among(tmp_path, offkey=f"exit {code}"))
    assert ended.returncode == code


def test_a_drained_worker_is_waited_for_and_does_not_count_as_done_nor_as_a_failure(
    build: Callable[..., list[Manifest]], worker: Manifest, tmp_path: Path
) -> None:
    # It ends with 0, as offkey does.
    script = "trap 'sleep 0.2; echo drained; exit' TERM; echo at work; while :; do sleep 0.01; done"
    with subprocess.Popen(worker["args"], env=among(tmp_path, offkey=script), stdout=subprocess.PIPE, text=True) as pod:
        assert pod.stdout is not None
        assert pod.stdout.readline() == "at work\n"
        pod.send_signal(signal.SIGTERM)
        assert pod.stdout.read() == "drained\n"
    rules = one(build(()), "Job", "offkey-workers")["spec"]["podFailurePolicy"]["rules"]
    assert {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [pod.returncode]}} in rules
    assert {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]} in rules


def test_a_pod_begins_when_the_database_answers_and_says_what_keeps_it(
    build: Callable[..., list[Manifest]], tmp_path: Path
) -> None:
    (waiting,) = pods(build(()))["offkey-workers"]["spec"]["initContainers"]
    assert waiting["args"][-1].split()[1:3] == ["said=$(python", "/opt/offkey/bin/healthcheck.py"]
    away_twice = (
        f'echo x >>{tmp_path}/asked; [ $(wc -l <{tmp_path}/asked) -gt 2 ] || {{ echo "Traceback\naway"; exit 1; }}'
    )
    waited = subprocess.run(
        waiting["args"], env=among(tmp_path, python=away_twice, sleep=":"), capture_output=True, text=True
    )
    assert (waited.returncode, waited.stdout) == (0, "away\naway\n")


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe"])
def test_a_dashboard_that_asks_for_the_password_is_well(build: Callable[..., list[Manifest]], probe: str) -> None:
    class AsksForThePassword(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(401)
            self.end_headers()

    (dashboard,) = pods(build(()))["offkey-dashboard"]["spec"]["containers"]
    _, *options, script = dashboard[probe]["exec"]["command"]

    def healthy(port: int) -> bool:
        asked = [sys.executable, *options, script.replace("8080", str(port))]
        return subprocess.run(asked, stderr=subprocess.DEVNULL).returncode == 0

    with http.server.HTTPServer(("127.0.0.1", 0), AsksForThePassword) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert healthy(server.server_port)
        server.shutdown()
    assert not healthy(server.server_port)
