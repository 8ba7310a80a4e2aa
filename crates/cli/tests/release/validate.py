"""Independent validators from PyPI: python-tuf, cyclonedx-python-lib, csaf-vex, lib4vex, vexipy, py-ocsf-models, prometheus-client,
tree-sitter-powershell.

usage: validate.py DOCUMENTS CATALOG DAY
"""

import datetime
import glob
import json
import os
import sys

documents, catalog, day = sys.argv[1:4]
counts = {}


def each(ending):
    paths = sorted(glob.glob(os.path.join(documents, "*." + ending)))
    assert len(paths) > 10, (ending, len(paths))
    counts[ending] = len(paths)
    return paths


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


# The Update Framework: what its own client accepts.
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.ngclient._internal import trusted_metadata_set as trusted

meta = lambda name: open(os.path.join(catalog, "metadata", name), "rb").read()
moment = datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.timezone.utc)


class At(datetime.datetime):
    """The clock of the client stands at the given day."""

    @classmethod
    def now(cls, tz=None):
        return moment


for name in ("datetime", "dt"):
    module = getattr(trusted, name, None)
    if isinstance(module, type):
        setattr(trusted, name, At)
    elif module is not None:
        module.datetime = At
state = trusted.TrustedMetadataSet(meta("1.root.json"), trusted.EnvelopeType.METADATA)
assert state.reference_time == moment
version = 2
while os.path.exists(os.path.join(catalog, "metadata", f"{version}.root.json")):
    state.update_root(meta(f"{version}.root.json"))
    version += 1
assert version > 2, "keys were rotated"
timestamp = state.update_timestamp(meta("timestamp.json"))
snapshot = state.update_snapshot(meta(f"{timestamp.snapshot_meta.version}.snapshot.json"))
targets = state.update_targets(meta(f"{snapshot.meta['targets.json'].version}.targets.json"))
for path, target in targets.targets.items():
    folder, name = os.path.split(path)
    with open(os.path.join(catalog, "targets", folder, f"{target.hashes['sha256']}.{name}"), "rb") as file:
        target.verify_length_and_hashes(file)
counts["targets under python-tuf"] = len(targets.targets)

# CycloneDX: its schema, strictly.
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

validator = JsonStrictValidator(SchemaVersion.V1_6)
for path in each("cyclonedx.json"):
    fault = validator.validate_str(read(path))
    assert fault is None, (path, fault)

# CSAF: the schema that csaf-vex carries, and its tests of the profile.
import csaf_vex
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

folder = os.path.join(os.path.dirname(csaf_vex.__file__), "verification", "schemas")
schemas = {name: json.loads(read(os.path.join(folder, name))) for name in os.listdir(folder) if name.endswith(".json")}
registry = Registry().with_resources(
    [(s.get("$id") or s.get("id"), Resource.from_contents(s, default_specification=__import__("referencing.jsonschema", fromlist=["x"]).DRAFT7)) for s in schemas.values()]
)
csaf = Draft202012Validator(schemas["csaf_2_0.json"], registry=registry)
for path in each("csaf.json"):
    faults = [f"{list(e.path)}: {e.message}" for e in csaf.iter_errors(json.loads(read(path)))]
    assert not faults, (path, faults[:5])

# OpenVEX: the models of vexipy, read by lib4vex, and by the rules of the specification.
import vexipy
from lib4vex.parser import VEXParser

STATUSES = {"fixed", "affected", "not_affected", "under_investigation"}
for path in each("openvex.json"):
    document = json.loads(read(path))
    assert document["@context"] == "https://openvex.dev/ns/v0.2.0" and document["@id"] and document["author"]
    assert isinstance(document["version"], int) and document["timestamp"]
    assert document["statements"], path
    model = vexipy.Document.from_json(read(path))
    assert [s.status.value for s in model.statements] == [s["status"] for s in document["statements"]], path
    for statement in document["statements"]:
        assert statement["status"] in STATUSES and statement["vulnerability"]["name"] and statement["products"]
        assert statement["status"] != "affected" or statement["action_statement"]
        assert statement["status"] != "not_affected" or statement.get("justification") or statement.get("impact_statement")
        for product in statement["products"]:
            assert product["@id"]
    parser = VEXParser()
    parser.parse(path)
    names = {v["id"] for v in parser.get_vulnerabilities()}
    assert names == {s["vulnerability"]["name"] for s in document["statements"]}, (path, names)

# OCSF: objects by their models; the arithmetic of the class.
from py_ocsf_models.objects.kb_article import KBArticle
from py_ocsf_models.objects.metadata import Metadata as OcsfMetadata
from py_ocsf_models.objects.operating_system import OperatingSystem

events = 0
for path in each("ocsf.jsonl"):
    for line in read(path).splitlines():
        event = json.loads(line)
        events += 1
        assert event["class_uid"] == 5004 and event["category_uid"] == event["class_uid"] // 1000
        assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
        assert isinstance(event["time"], int) and event["severity_id"] in range(7)
        OcsfMetadata.model_validate(event["metadata"])
        OperatingSystem.model_validate(event["device"]["os"])
        for article in event["kb_article_list"]:
            KBArticle.model_validate(article)
counts["ocsf events"] = events

# Prometheus: its own parser.
from prometheus_client.parser import text_string_to_metric_families

for path in each("prometheus.txt"):
    families = {family.name: family for family in text_string_to_metric_families(read(path))}
    assert "hotgraft_open_cves" in families, path
    by_cve = {}
    for sample in families["hotgraft_cve_state"].samples:
        key = (sample.labels["machine"], sample.labels["cve"])
        by_cve[key] = by_cve.get(key, 0) + sample.value
    assert all(total == 1 for total in by_cve.values()), path

# JSON lines and Intune's rules: by their form.
for path in each("lines.jsonl"):
    for line in read(path).splitlines():
        assert json.loads(line)["schema"] == "hotgraft.release.line/1"
import tree_sitter
import tree_sitter_powershell

powershell = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
OPERATORS = {"IsEquals", "NotEquals", "GreaterThan", "GreaterEquals", "LessThan", "LessEquals"}
TYPES = {"Boolean": bool, "Int64": int, "String": str}
for path in each("intune.json"):
    rules = json.loads(read(path))
    assert list(rules) == ["Rules"] and rules["Rules"]
    script = read(path.replace("intune.json", "intune.ps1"))
    assert not powershell.parse(script.encode()).root_node.has_error, path
    for rule in rules["Rules"]:
        assert rule["Operator"] in OPERATORS and type(rule["Operand"]) is TYPES[rule["DataType"]], rule
        assert rule["MoreInfoUrl"].startswith("https://") and rule["SettingName"] in script
        for text in rule["RemediationStrings"]:
            assert set(text) == {"Language", "Title", "Description"}

print("validated:", ", ".join(f"{count} {name}" for name, count in counts.items()))
